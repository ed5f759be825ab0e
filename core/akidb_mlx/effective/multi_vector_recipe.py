"""MultiVectorRecipe: what decides a row per token, settled from what the files say and what the user says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from akidb_mlx.checkpoint.heads import HeadFacts
from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.joint_heads import MULTI_VECTOR, find_joint_head, read_joint_multi_vector
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.late_interaction import Expansion, TokenPooling
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.multi_vector_facts import MultiVectorCheckpoint, read_multi_vector_checkpoint
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.special_tokens import named_token, read_special_tokens
from akidb_mlx.checkpoint.tokenizer_classes import BACKENDS, CLASSES
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.device.choice import Device, choose_device
from akidb_mlx.effective.differences import token_differences
from akidb_mlx.effective.facts import RecipeFact, chat_template, config_defaults, dtype, quantization, stored_dtype
from akidb_mlx.effective.prompts import Prompts, document_names, side_prompts
from akidb_mlx.effective.recipe import settle_length
from akidb_mlx.errors import ConfigError, UnsupportedModelError

__all__ = [
    "MULTI_VECTOR_FACTS",
    "MultiVectorRecipe",
    "multi_vector_fingerprint_facts",
    "multi_vector_prompts",
    "read_multi_vector_recipe",
]

# Whose tokens see what comes after them too, so that added tokens before a text see the text.
_BIDIRECTIONAL = frozenset(
    {
        *("bert", "camembert", "distilbert", "eurobert", "gte", "modernbert"),
        *("mpnet", "new", "nomic_bert", "roberta", "xlm-roberta"),
    }
)


@dataclass(frozen=True)
class MultiVectorRecipe:
    """What decides the vectors: the checkpoint's facts with the user's word on top."""

    checkpoint: MultiVectorCheckpoint
    device: Device
    max_seq_length: int | None
    side_lengths: Mapping[Side, int]
    expansion: Expansion | None
    """How queries are made longer, with the token by its name."""
    unknown_token: str | None
    """What a word beyond the vocabulary stands for, where the files or the tokenizer's class name one."""

    @property
    def head(self) -> HeadFacts:
        """What makes rows of hidden states."""
        return self.checkpoint.head


def read_multi_vector_recipe(config: MultiVectorConfig, source: Resolved | None = None) -> MultiVectorRecipe:
    """Find the checkpoint, read it and settle what config and checkpoint say; loads no weights."""
    source = source or resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    joint = find_joint_head(source.path, MULTI_VECTOR)
    if joint is None:
        checkpoint = read_multi_vector_checkpoint(source.path, source.name, source.revision)
    else:
        checkpoint = read_joint_multi_vector(source.path, joint, source.name, source.revision)
    if config.exact_reference:
        checkpoint = checkpoint.without_end_token()
    expansion, lengths = _settle_lengths(config, checkpoint)
    if expansion is not None:
        _check_expansion(checkpoint, expansion)
        expansion = replace(expansion, token=expansion.token or _filler(config, checkpoint))
    device = choose_device(config.device, config.memory_limit_mb)
    unknown = _named(config, checkpoint, "unk_token", None)
    return MultiVectorRecipe(checkpoint, device, settle_length(config, checkpoint), lengths, expansion, unknown)


def _settle_lengths(
    config: MultiVectorConfig, checkpoint: MultiVectorCheckpoint
) -> tuple[Expansion | None, dict[Side, int]]:
    """How queries are made longer, and the usable tokens of each side: the user's word, else the files'."""
    lengths, expansion = dict(checkpoint.side_lengths), checkpoint.expansion
    if config.document_length is not None:
        lengths["document"] = config.document_length
    if config.query_length is not None:
        lengths["query"] = config.query_length
        if expansion is not None and expansion.strategy == "fixed":
            expansion = replace(expansion, length=config.query_length)
        elif expansion is not None and config.query_length < expansion.length:
            where = config.source_of("query_length")
            raise ConfigError(
                f"query_length is {config.query_length} ({where}), but {checkpoint.name} fills each query up to at "
                f"least {expansion.length} tokens; set at least that"
            )
    bounds = [bound for bound in (config.max_seq_length, checkpoint.max_positions) if bound is not None]
    if expansion is not None and bounds and expansion.length > min(bounds):
        raise ConfigError(
            f"{checkpoint.name} fills queries up to {expansion.length} tokens, but a text may have {min(bounds)} "
            "(max_seq_length, positions); set a larger max_seq_length or a smaller query_length"
        )
    if expansion is not None and expansion.strategy == "fixed":
        lengths["query"] = expansion.length
    return expansion, {side: min([length, *bounds]) for side, length in lengths.items()}


def _check_expansion(checkpoint: MultiVectorCheckpoint, expansion: Expansion) -> None:
    """Refuse what is not computed here: added tokens that see nothing."""
    if expansion.attend:
        return
    where, window = checkpoint.path / checkpoint.sources["expansion"], _reach(checkpoint.config)
    if window is not None and window < expansion.length - 1:
        raise UnsupportedModelError(
            f"{where}: queries are filled up to {expansion.length} tokens that no other token sees, and attention "
            f"reaches {window} tokens: some would see nothing, which is not supported; set a smaller query_length"
        )
    fills_left = checkpoint.pads_left and expansion.strategy == "fixed"
    if fills_left and checkpoint.model_type not in _BIDIRECTIONAL:
        raise UnsupportedModelError(
            f"{where}: the tokenizer pads on the left, and {checkpoint.model_type}'s tokens see only what is before "
            "them: the tokens that fill a query up would see nothing. Set padding_side to right, or attend to true"
        )


def _reach(config: Mapping[str, Any]) -> int | None:
    """Tokens that the shortest attention of a model reaches to a side; None for all."""
    if isinstance(config.get("local_attention"), int):
        return int(config["local_attention"]) // 2
    window = config.get("sliding_window")
    if not isinstance(window, int) or config.get("use_sliding_window") is False:
        return None
    if config.get("use_bidirectional_attention"):
        return window // 2
    return window if config.get("is_causal") is False else window - 1


def _filler(config: MultiVectorConfig, checkpoint: MultiVectorCheckpoint) -> str:
    """The tokenizer's mask token, else its end token."""
    token = _named(config, checkpoint, "mask_token") or _named(config, checkpoint, "eos_token")
    if token is None:
        raise UnsupportedModelError(
            f"{checkpoint.path / checkpoint.sources['expansion']}: queries are filled up with the tokenizer's mask "
            "token or else its end token, and it has neither; name the token (query_expansion's token)"
        )
    return token


_REQUIRED: Any = object()


def _named(
    config: MultiVectorConfig, checkpoint: MultiVectorCheckpoint, name: str, unsaid: Any = _REQUIRED
) -> str | None:
    """A special token by the files, else the tokenizer's class; `unsaid` where neither is known."""
    folder = checkpoint.tokenizer_file.parent
    file = folder / "tokenizer_config.json"
    special = read_special_tokens(folder, read_json(file) if file.exists() else {})
    kind = checkpoint.rebuilt_tokenizer(config.tokenizer).class_name
    known = CLASSES.get("TokenizersBackend" if kind in BACKENDS else kind or "")
    try:
        return named_token(special, name, None if known is None else known.tokens)
    except LookupError:
        if unsaid is not _REQUIRED:
            value: str | None = unsaid
            return value
        raise UnsupportedModelError(
            f"{file} names no {name}, and what {kind or 'the tokenizer'} takes then is not known here; add it to the "
            "file, or name query_expansion's token"
        ) from None


def multi_vector_prompts(config: MultiVectorConfig, recipe: MultiVectorRecipe) -> Prompts:
    """The user's prompts, else the checkpoint's; as an embedder's."""
    names = document_names(config.exact_reference)
    return side_prompts(recipe.checkpoint, config.query_prompt, config.document_prompt, names)


def multi_vector_fingerprint_facts(config: MultiVectorConfig, recipe: MultiVectorRecipe) -> dict[str, Any]:
    """What `fingerprint` hashes."""
    checkpoint, prompts = recipe.checkpoint, multi_vector_prompts(config, recipe)
    return {
        "kind": "multi_vector",
        "checkpoint": checkpoint,
        "tokenizer": checkpoint.rebuilt_tokenizer(config.tokenizer),
        "expansion": _plain(recipe.expansion),
        "fills_left": _fills_left(config, recipe),
        "skiplist": _plain(checkpoint.skiplist),
        "token_pooling": [_plain(checkpoint.token_pooling), config.token_pooling],
        "prompts": {**prompts.named, "document": prompts.document, "query": prompts.query},
        "default_prompt": prompts.default_name,
        "max_seq_length": recipe.max_seq_length,
        "side_lengths": dict(recipe.side_lengths),
        "output_dtype": config.output_dtype,
        "dtype": config.dtype,
        **({"exact_reference": True} if config.exact_reference else {}),
    }


def _plain(facts: Any) -> dict[str, Any] | None:
    """A dataclass as JSON has it."""
    if facts is None:
        return None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(facts).items()}


def _fills_left(_: MultiVectorConfig, recipe: MultiVectorRecipe) -> bool:
    """Whether tokens are added before a query; as the reference has it for a query alone."""
    return recipe.expansion is not None and recipe.expansion.strategy == "fixed" and recipe.checkpoint.pads_left


def _expansion(_: MultiVectorConfig, recipe: MultiVectorRecipe) -> dict[str, Any] | None:
    if recipe.expansion is None:
        return None
    return {**asdict(recipe.expansion), "side": "left" if _fills_left(_, recipe) else "right"}


def _differences(config: MultiVectorConfig, recipe: MultiVectorRecipe) -> list[str]:
    """Where rows are meant to be others than sentence-transformers', in words."""
    said, checkpoint = token_differences(config, recipe), recipe.checkpoint
    used = next((name for name in ("document", "passage", "corpus") if checkpoint.prompts.get(name)), "document")
    if used != "document" and config.document_prompt is None and not config.exact_reference:
        said.append(f"the prompt {used!r} serves documents; sentence-transformers puts none before them")
    if checkpoint.pads_left:
        said.append(
            "the tokenizer pads on the left, where sentence-transformers' rows may change with what shares a batch: "
            "these are its rows of each text alone"
        )
    return said


def _dense(_: MultiVectorConfig, recipe: MultiVectorRecipe) -> list[str]:
    return [f"{layer.in_features} → {layer.out_features} {layer.activation}" for layer in recipe.checkpoint.head.dense]


def _token_pooling(config: MultiVectorConfig, recipe: MultiVectorRecipe) -> list[dict[str, Any]] | None:
    """What is merged in turn: as the checkpoint says, then as the user does."""
    more = None if config.token_pooling is None else TokenPooling(config.token_pooling)
    return [asdict(one) for one in (recipe.checkpoint.token_pooling, more) if one is not None] or None


# In the order in which `info` tells them.
MULTI_VECTOR_FACTS: Final[Mapping[str, RecipeFact[MultiVectorConfig, MultiVectorRecipe]]] = {
    "kind": RecipeFact(lambda c, r: "multi_vector", None, "kind"),
    "model_name": RecipeFact(lambda c, r: r.checkpoint.name, None, None),
    "revision": RecipeFact(lambda c, r: r.checkpoint.revision, None, None),
    "path": RecipeFact(lambda c, r: str(r.checkpoint.path), None, None),
    "written_by": RecipeFact(lambda c, r: r.checkpoint.written_by, None, None),
    "architecture": RecipeFact(lambda c, r: r.checkpoint.model_type, "files", "architecture"),
    "dense": RecipeFact(_dense, "files", "head"),
    "normalize": RecipeFact(lambda c, r: r.checkpoint.head.normalize, "files", "head"),
    "expansion": RecipeFact(_expansion, "files", "expansion"),
    "skiplist": RecipeFact(lambda c, r: _plain(r.checkpoint.skiplist), "files", "skiplist"),
    "token_pooling": RecipeFact(_token_pooling, "setting", "token_pooling"),
    "similarity": RecipeFact(lambda c, r: r.checkpoint.similarity, "files", None),
    "chat_template": RecipeFact(chat_template, None, "chat"),
    "markers": RecipeFact(lambda c, r: list(r.checkpoint.tokenizer_rules.get("markers", ())), None, "tokenizer_rules"),
    "prompts": RecipeFact(lambda c, r: dict(r.checkpoint.prompts), "files", "prompts"),
    "query_prompt": RecipeFact(lambda c, r: c.query_prompt, "setting", "prompts"),
    "document_prompt": RecipeFact(lambda c, r: c.document_prompt, "setting", "prompts"),
    "default_prompt_name": RecipeFact(lambda c, r: r.checkpoint.default_prompt_name, None, "default_prompt"),
    "max_seq_length": RecipeFact(lambda c, r: r.max_seq_length, "setting", "max_seq_length"),
    "side_lengths": RecipeFact(lambda c, r: dict(r.side_lengths) or None, "files", "side_lengths"),
    "tokenizer": RecipeFact(lambda c, r: str(r.checkpoint.rebuilt_tokenizer(c.tokenizer)), "setting", "tokenizer"),
    "exact_reference": RecipeFact(lambda c, r: bool(c.exact_reference), "setting", "exact_reference"),
    "differences": RecipeFact(_differences, None, None),
    "output_dtype": RecipeFact(lambda c, r: c.output_dtype, "setting", "output_dtype"),
    "config_defaults": RecipeFact(config_defaults, None, None),
    "quantization": RecipeFact(quantization, "files", "architecture"),
    "stored_dtype": RecipeFact(stored_dtype, None, "weights"),
    "dtype": RecipeFact(dtype, "setting", "dtype"),
    "backend": RecipeFact(lambda c, r: r.device.kind, None, None),
    "device": RecipeFact(lambda c, r: r.device.name, None, None),
}
