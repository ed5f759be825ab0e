"""SparseRecipe: what decides a sparse encoder's rows, settled from what the files say and what the user says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from akidb_mlx.checkpoint.digests import digest_of
from akidb_mlx.checkpoint.heads import AutoEncoderHead, HeadFacts, SpladeHead, TokenWeightsHead
from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.joint_heads import SPARSE, find_joint_head, read_joint_sparse
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.sparse_facts import SparseCheckpoint, read_sparse_checkpoint
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.device.choice import Device, choose_device
from akidb_mlx.effective.differences import token_differences
from akidb_mlx.effective.facts import RecipeFact, config_defaults, dtype, quantization, stored_dtype
from akidb_mlx.effective.prompts import Prompts, side_prompts
from akidb_mlx.effective.recipe import settle_length, warn_once
from akidb_mlx.errors import ConfigError, UnsupportedModelError

__all__ = [
    "SPARSE_FACTS",
    "SparseRecipe",
    "read_sparse_recipe",
    "settled_active_dims",
    "sparse_fingerprint_facts",
    "sparse_prompts",
]

_STRATEGIES: Final[Mapping[str, Literal["max", "sum"]]] = {"splade_max": "max", "splade_sum": "sum"}


@dataclass(frozen=True)
class SparseRecipe:
    """What decides the rows: the checkpoint's facts with the user's word on top."""

    checkpoint: SparseCheckpoint
    device: Device
    head: HeadFacts
    max_seq_length: int | None
    side_lengths: Mapping[Side, int] = field(default_factory=dict)


def read_sparse_recipe(config: SparseConfig, source: Resolved | None = None) -> SparseRecipe:
    """Find the checkpoint, read it and settle what config and checkpoint say; loads no weights of the model's."""
    source = source or resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    joint = find_joint_head(source.path, SPARSE)
    if joint is None:
        checkpoint = read_sparse_checkpoint(source.path, source.name, source.revision)
    else:
        checkpoint = read_joint_sparse(source.path, joint, source.name, source.revision)
    if config.exact_reference:
        checkpoint = checkpoint.without_end_token()
    device = choose_device(config.device, config.memory_limit_mb)
    head, length = _settle_head(config, checkpoint), settle_length(config, checkpoint)
    bounds = [bound for bound in (config.max_seq_length, checkpoint.max_positions) if bound is not None]
    sides: dict[Side, int] = {side: min([most, *bounds]) for side, most in checkpoint.side_lengths.items()}
    recipe = SparseRecipe(checkpoint, device, head, length, sides)
    settled_active_dims(config, recipe)  # what is refused is refused before the weights are read
    return recipe


def _settle_head(config: SparseConfig, checkpoint: SparseCheckpoint) -> HeadFacts:
    head = checkpoint.head
    if config.pooling is None:
        if head is None:
            raise UnsupportedModelError(
                f"{checkpoint.path} is a masked language model and does not say how its logits become one row (no "
                "modules.json with SpladePooling). Most such models were never trained for search, and their rows "
                'mean nothing; if its documentation says that it was, set pooling ("splade_max" is what '
                "sentence-transformers takes then)"
            )
        return head
    strategy = _STRATEGIES[config.pooling]
    if head is None:
        return SpladeHead(strategy, "relu")
    if not isinstance(head, SpladeHead):
        other = "a sparse autoencoder" if isinstance(head, AutoEncoderHead) else "a model with a weight per token"
        raise ConfigError(
            f"pooling is {config.pooling} ({config.source_of('pooling')}), but {checkpoint.name} is {other}, which has "
            "none of that kind"
        )
    if head.strategy != strategy:
        warn_once(
            f'{checkpoint.name} was trained with pooling "splade_{head.strategy}" ({checkpoint.sources["head"]}), but '
            f'"{config.pooling}" is set ({config.source_of("pooling")}): delete that setting to follow the checkpoint'
        )
    return replace(head, strategy=strategy)


def settled_active_dims(config: SparseConfig, recipe: SparseRecipe) -> int | None:
    """Most entries of a row: the user's word, else the checkpoint's.

    Raises:
        ConfigError: more than an autoencoder has latents.
    """
    checkpoint = recipe.checkpoint
    most = checkpoint.max_active_dims if config.max_active_dims is None else config.max_active_dims
    if isinstance(recipe.head, AutoEncoderHead) and most is not None and most > checkpoint.dimension:
        where = config.source_of("max_active_dims") if config.max_active_dims else checkpoint.sources["max_active_dims"]
        raise ConfigError(
            f"max_active_dims is {most} ({where}); {checkpoint.name} has {checkpoint.dimension} latents, of which the "
            "reference cannot take more"
        )
    return most


def sparse_prompts(config: SparseConfig, recipe: SparseRecipe) -> Prompts:
    """The user's prompts, else the checkpoint's.

    A prompt called passage or corpus is never a document's here, for the reference has one called document always.
    """
    return side_prompts(recipe.checkpoint, config.query_prompt, config.document_prompt)


def sparse_fingerprint_facts(config: SparseConfig, recipe: SparseRecipe) -> dict[str, Any]:
    """What `fingerprint` hashes."""
    prompts = sparse_prompts(config, recipe)
    return {
        "kind": "sparse",
        "checkpoint": recipe.checkpoint,
        "head": recipe.head,
        "tokenizer": recipe.checkpoint.rebuilt_tokenizer(config.tokenizer),
        "query_tokenizer": _query_tokenizer(config, recipe),
        "max_active_dims": settled_active_dims(config, recipe),
        "prompts": {**prompts.named, "document": prompts.document, "query": prompts.query},
        "default_prompt": prompts.default_name,
        "max_seq_length": recipe.max_seq_length,
        "query_max_seq_length": _query_length(config, recipe),
        "side_lengths": dict(recipe.side_lengths),
        "dtype": config.dtype,
    }


def _query_tokenizer(config: SparseConfig, recipe: SparseRecipe) -> list[Any] | None:
    static = recipe.checkpoint.static_queries
    if static is None:
        return None
    rebuilt = static.rebuilt_tokenizer(config.tokenizer)
    digest = rebuilt.digest or digest_of(static.tokenizer_file)
    side = static.truncation_side or rebuilt.truncation_side or "right"
    return [digest, rebuilt.split_special_tokens, side]


def _query_length(config: SparseConfig, recipe: SparseRecipe) -> int | None:
    static = recipe.checkpoint.static_queries
    return None if static is None else config.max_seq_length or static.max_seq_length


def _head(_: SparseConfig, recipe: SparseRecipe) -> str:
    head = recipe.head
    if isinstance(head, AutoEncoderHead):
        return f"pooling {'+'.join(head.pooled.pooling)}, then an autoencoder of {head.hidden_dim} latents"
    if isinstance(head, TokenWeightsHead):
        return "a weight per token, the greatest of equal ones"
    assert isinstance(head, SpladeHead)
    return f"splade_{head.strategy}, {head.activation}"


def _queries(_: SparseConfig, recipe: SparseRecipe) -> str:
    return "by the model" if recipe.checkpoint.static_queries is None else "a weight per token, without the model"


def _pooling(_: SparseConfig, recipe: SparseRecipe) -> str | None:
    return f"splade_{recipe.head.strategy}" if isinstance(recipe.head, SpladeHead) else None


# In the order in which `info` tells them.
SPARSE_FACTS: Final[Mapping[str, RecipeFact[SparseConfig, SparseRecipe]]] = {
    "kind": RecipeFact(lambda c, r: "sparse", None, "kind"),
    "model_name": RecipeFact(lambda c, r: r.checkpoint.name, None, None),
    "revision": RecipeFact(lambda c, r: r.checkpoint.revision, None, None),
    "path": RecipeFact(lambda c, r: str(r.checkpoint.path), None, None),
    "architecture": RecipeFact(lambda c, r: r.checkpoint.model_type, "files", "architecture"),
    "head": RecipeFact(_head, "files", "head"),
    "pooling": RecipeFact(_pooling, "setting", "head"),
    "queries": RecipeFact(_queries, "files", "static_queries"),
    "max_active_dims": RecipeFact(settled_active_dims, "setting", "max_active_dims"),
    "prompts": RecipeFact(lambda c, r: dict(r.checkpoint.prompts), "files", "prompts"),
    "query_prompt": RecipeFact(lambda c, r: c.query_prompt, "setting", "prompts"),
    "document_prompt": RecipeFact(lambda c, r: c.document_prompt, "setting", "prompts"),
    "default_prompt_name": RecipeFact(lambda c, r: r.checkpoint.default_prompt_name, None, "default_prompt"),
    "include_prompt": RecipeFact(lambda c, r: r.checkpoint.include_prompt, None, "include_prompt"),
    "similarity": RecipeFact(lambda c, r: r.checkpoint.similarity, "files", None),
    "max_seq_length": RecipeFact(lambda c, r: r.max_seq_length, "setting", "max_seq_length"),
    "query_max_seq_length": RecipeFact(_query_length, None, "query_max_seq_length"),
    "side_lengths": RecipeFact(lambda c, r: dict(r.side_lengths) or None, None, "side_lengths"),
    "tokenizer": RecipeFact(lambda c, r: str(r.checkpoint.rebuilt_tokenizer(c.tokenizer)), "setting", "tokenizer"),
    "config_defaults": RecipeFact(config_defaults, None, None),
    "quantization": RecipeFact(quantization, "files", "architecture"),
    "exact_reference": RecipeFact(lambda c, r: bool(c.exact_reference), "setting", "tokenizer_rules"),
    "differences": RecipeFact(token_differences, None, None),
    "stored_dtype": RecipeFact(stored_dtype, None, "weights"),
    "dtype": RecipeFact(dtype, "setting", "dtype"),
    "backend": RecipeFact(lambda c, r: r.device.kind, None, None),
    "device": RecipeFact(lambda c, r: r.device.name, None, None),
}
