"""RerankerRecipe: what decides the scores, settled from what the files say and what the user says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from akidb_mlx.checkpoint.heads import ClassificationHead, HeadFacts, PooledHead, TokenLogitHead
from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.pair_facts import gives_token_types
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.reranker_facts import RerankerCheckpoint, read_reranker_checkpoint
from akidb_mlx.config.options import ACTIVATIONS
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.device.choice import Device, choose_device
from akidb_mlx.effective.differences import token_differences
from akidb_mlx.effective.facts import RecipeFact, chat_template, config_defaults, dtype, quantization, stored_dtype
from akidb_mlx.effective.prompts import Prompts
from akidb_mlx.effective.recipe import settle_length
from akidb_mlx.errors import ConfigError, UnsupportedModelError

__all__ = [
    "RERANKER_FACTS",
    "RerankerRecipe",
    "read_reranker_recipe",
    "reranker_fingerprint_facts",
    "reranker_prompts",
    "settled_activation",
]


_ALIKE = "which gives 1 for every pair"  # softmax over a single label


@dataclass(frozen=True)
class RerankerRecipe:
    """What decides the scores: the checkpoint's facts with the user's word on top."""

    checkpoint: RerankerCheckpoint
    device: Device
    max_seq_length: int | None
    token_types: bool
    """Whether the model is told which tokens are the second text's."""

    @property
    def head(self) -> HeadFacts:
        """What makes scores of hidden states."""
        return self.checkpoint.head

    @property
    def side_lengths(self) -> Mapping[Side, int]:
        """None: query and text are one input."""
        return {}


def read_reranker_recipe(config: RerankerConfig, source: Resolved | None = None) -> RerankerRecipe:
    """Find the checkpoint, read it and settle what config and checkpoint say; loads no weights."""
    source = source or resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    checkpoint = read_reranker_checkpoint(source.path, source.name, source.revision)
    if config.exact_reference:
        checkpoint = checkpoint.without_end_token()
    types = False
    if checkpoint.chat is None:
        rebuilt = checkpoint.rebuilt_tokenizer(config.tokenizer)
        types = gives_token_types(checkpoint.tokenizer_file, rebuilt, checkpoint.config)
    device = choose_device(config.device, config.memory_limit_mb)
    recipe = RerankerRecipe(checkpoint, device, settle_length(config, checkpoint), types)
    settled_activation(config, recipe)  # what is refused is refused before the weights are read
    return recipe


def settled_activation(config: RerankerConfig, recipe: RerankerRecipe) -> str:
    """What makes scores of the model's numbers: the user's word, else the checkpoint's.

    Raises:
        ConfigError: the user's is softmax for a model with one label.
        UnsupportedModelError: the checkpoint's is that, or is not computed here.
    """
    checkpoint = recipe.checkpoint
    if config.activation is None:
        _refuse_unknown_activation(checkpoint)
        return checkpoint.activation
    if config.activation == "softmax" and checkpoint.num_labels == 1:
        where = config.source_of("activation")
        raise ConfigError(f"activation is softmax ({where}), {_ALIKE}: {checkpoint.name} has one label")
    return config.activation


def _refuse_unknown_activation(checkpoint: RerankerCheckpoint) -> None:
    known = checkpoint.activation in ACTIVATIONS
    if known and not (checkpoint.activation == "softmax" and checkpoint.num_labels == 1):
        return
    problem = _ALIKE if known else f"known are {', '.join(ACTIVATIONS)}"
    raise UnsupportedModelError(
        f"{checkpoint.path / checkpoint.sources['activation']}: the activation is {checkpoint.activation!r}, {problem}"
        ". Set activation where you know better"
    )


def reranker_prompts(config: RerankerConfig, recipe: RerankerRecipe) -> Prompts:
    """The checkpoint's prompts; the user's is the default where there is one."""
    checkpoint = recipe.checkpoint
    named, default = dict(checkpoint.prompts), checkpoint.default_prompt_name
    said = config.prompt if config.prompt is not None else named.get(default or "", "")
    return Prompts(checkpoint.name, named, default, query=said, document="")


def reranker_fingerprint_facts(config: RerankerConfig, recipe: RerankerRecipe) -> dict[str, Any]:
    """What `fingerprint` hashes."""
    prompts = reranker_prompts(config, recipe)
    return {
        "kind": "reranker",
        "checkpoint": recipe.checkpoint,
        "tokenizer": recipe.checkpoint.rebuilt_tokenizer(config.tokenizer),
        "activation": settled_activation(config, recipe),
        "prompts": prompts.named,
        "prompt": prompts.query,
        "token_types": recipe.token_types,
        "max_seq_length": recipe.max_seq_length,
        "dtype": config.dtype,
    }


def _head(_: RerankerConfig, recipe: RerankerRecipe) -> str:
    head = recipe.checkpoint.head
    if isinstance(head, ClassificationHead):
        return "classifier"
    if isinstance(head, TokenLogitHead):
        less = "" if head.false_token_id is None else f" less that of {head.false_token_id}"
        return f"logit of token {head.true_token_id}{less}"
    assert isinstance(head, PooledHead)
    return f"pooling {'+'.join(head.pooling)}, then {len(head.dense)} Dense"


def _truncation_side(config: RerankerConfig, recipe: RerankerRecipe) -> str:
    checkpoint = recipe.checkpoint
    return checkpoint.truncation_side or checkpoint.rebuilt_tokenizer(config.tokenizer).truncation_side or "right"


# In the order in which `info` tells them.
RERANKER_FACTS: Final[Mapping[str, RecipeFact[RerankerConfig, RerankerRecipe]]] = {
    "kind": RecipeFact(lambda c, r: "reranker", None, "kind"),
    "model_name": RecipeFact(lambda c, r: r.checkpoint.name, None, None),
    "revision": RecipeFact(lambda c, r: r.checkpoint.revision, None, None),
    "path": RecipeFact(lambda c, r: str(r.checkpoint.path), None, None),
    "architecture": RecipeFact(lambda c, r: r.checkpoint.model_type, "files", "architecture"),
    "head": RecipeFact(_head, "files", "head"),
    "num_labels": RecipeFact(lambda c, r: r.checkpoint.num_labels, None, "head"),
    "activation": RecipeFact(settled_activation, "setting", "activation"),
    "chat_template": RecipeFact(chat_template, None, "chat"),
    "prompts": RecipeFact(lambda c, r: dict(r.checkpoint.prompts), "files", "prompts"),
    "default_prompt_name": RecipeFact(lambda c, r: r.checkpoint.default_prompt_name, None, "prompt"),
    "prompt": RecipeFact(lambda c, r: c.prompt, "setting", "prompt"),
    "token_types": RecipeFact(lambda c, r: r.token_types, None, "token_types"),
    "truncation_side": RecipeFact(_truncation_side, None, "truncation_side"),
    "tokenizer": RecipeFact(lambda c, r: str(r.checkpoint.rebuilt_tokenizer(c.tokenizer)), "setting", "tokenizer"),
    "max_seq_length": RecipeFact(lambda c, r: r.max_seq_length, "setting", "max_seq_length"),
    "config_defaults": RecipeFact(config_defaults, None, None),
    "quantization": RecipeFact(quantization, "files", "architecture"),
    "exact_reference": RecipeFact(lambda c, r: bool(c.exact_reference), "setting", "tokenizer_rules"),
    "differences": RecipeFact(token_differences, None, None),
    "stored_dtype": RecipeFact(stored_dtype, None, "weights"),
    "dtype": RecipeFact(dtype, "setting", "dtype"),
    "backend": RecipeFact(lambda c, r: r.device.kind, None, None),
    "device": RecipeFact(lambda c, r: r.device.name, None, None),
}
