"""The recipe's facts, each in one row: how `info` tells it, who says it, what it counts for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from akidb_mlx.checkpoint.safetensors_header import read_float_dtype
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.effective.differences import embedder_differences
from akidb_mlx.effective.prompts import effective_prompts
from akidb_mlx.effective.recipe import AnyRecipe, Recipe
from akidb_mlx.effective.tasks import effective_tasks

__all__ = ["FACTS", "RecipeFact", "chat_template", "config_defaults", "dtype", "quantization", "stored_dtype"]

C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True)
class RecipeFact(Generic[C, R]):
    """One row; who adds a fact says at least the first three."""

    tell: Callable[[C, R], Any]
    """Its plain value."""
    said_by: Literal["files", "setting"] | None
    """What `info` names as its source: a file, or the setting of the same name before the file; None: it names none."""
    hashed: str | None
    """The key under which the fingerprint has it, there in a form of its own; None: it decides no vectors."""
    in_index: bool = False
    """Whether an index's recipe explains its fingerprint with it."""
    in_output: bool = False
    """Whether a corpus's output carries it, for queries that match."""


def _suggestions(config: EmbedderConfig, recipe: Recipe) -> list[str]:
    """What the model's family recommends and neither the files nor the user say."""
    prompts = effective_prompts(config, recipe).named
    sides = {"query": config.query_prompt, "document": config.document_prompt}
    said = [f"{side}_prompt=" for side, prompt in sides.items() if prompt is not None or prompts.get(side)]
    return [text for text in recipe.checkpoint.suggestions if not text.startswith(tuple(said) or "\n")]


def _dense(_: EmbedderConfig, recipe: Recipe) -> list[str]:
    return [f"{layer.in_features} → {layer.out_features} {layer.activation}" for layer in recipe.checkpoint.dense]


def _normalize(config: EmbedderConfig, recipe: Recipe) -> bool | None:
    return recipe.checkpoint.normalize if config.normalize is None else config.normalize


def _truncate_dim(config: EmbedderConfig, recipe: Recipe) -> int | None:
    return recipe.checkpoint.truncate_dim if config.truncate_dim is None else config.truncate_dim


def _side_tasks(config: EmbedderConfig, recipe: Recipe) -> dict[str, str | None] | None:
    """The adapter of each side, of a model that has some."""
    tasks = effective_tasks(config, recipe.checkpoint)
    return {"query": tasks.of_side("query"), "document": tasks.of_side("document")} if tasks.names else None


def quantization(_: ModelConfig, recipe: AnyRecipe) -> dict[str, Any] | None:
    """How the weights are packed, as config.json says it."""
    return dict(recipe.checkpoint.quantization) if recipe.checkpoint.quantization else None


def config_defaults(_: ModelConfig, recipe: AnyRecipe) -> dict[str, str]:
    """Fields that config.json leaves to transformers' class, with the class's values."""
    kind = recipe.checkpoint.model_type
    return {
        name: f"{value!r} (config.json: default of {kind})"
        for name, value in sorted(recipe.checkpoint.config_defaults.items())
    }


def chat_template(_: ModelConfig, recipe: AnyRecipe) -> str | None:
    """The file of the template that texts are put through."""
    return None if recipe.checkpoint.chat is None else recipe.checkpoint.chat.source


def stored_dtype(_: ModelConfig, recipe: AnyRecipe) -> str:
    """The dtype of the files."""
    return read_float_dtype(recipe.checkpoint.weight_files)


def dtype(config: ModelConfig, recipe: AnyRecipe) -> str:
    """The dtype of the live weights."""
    return recipe.device.dtype(recipe.checkpoint.float_dtype, config.dtype)


_BOTH: Final = {"in_index": True, "in_output": True}
# In the order in which `info` tells them. Both recipes carry the dtype too, as asked for, and the dimension.
FACTS: Final[Mapping[str, RecipeFact[EmbedderConfig, Recipe]]] = {
    "model_name": RecipeFact(lambda c, r: r.checkpoint.name, None, None, **_BOTH),
    "revision": RecipeFact(lambda c, r: r.checkpoint.revision, None, None, **_BOTH),
    "path": RecipeFact(lambda c, r: str(r.checkpoint.path), None, None),
    "architecture": RecipeFact(lambda c, r: r.checkpoint.model_type, "files", "architecture", in_index=True),
    "pooling": RecipeFact(lambda c, r: "+".join(r.pooling), "setting", "pooling", **_BOTH),
    "include_prompt": RecipeFact(lambda c, r: r.checkpoint.include_prompt, None, "include_prompt"),
    "dense": RecipeFact(_dense, "files", "dense", in_index=True),
    "normalize": RecipeFact(_normalize, "setting", "normalize", **_BOTH),
    "output": RecipeFact(lambda c, r: r.checkpoint.output, None, "output", in_index=True),
    "chat_template": RecipeFact(chat_template, None, "chat", in_index=True),
    "prompts": RecipeFact(lambda c, r: dict(r.checkpoint.prompts), "files", "prompts", **_BOTH),
    "query_prompt": RecipeFact(lambda c, r: c.query_prompt, "setting", "prompts", **_BOTH),
    "document_prompt": RecipeFact(lambda c, r: c.document_prompt, "setting", "prompts", **_BOTH),
    "default_prompt_name": RecipeFact(
        lambda c, r: r.checkpoint.default_prompt_name, None, "default_prompt", in_index=True
    ),
    "similarity": RecipeFact(lambda c, r: r.checkpoint.similarity, "files", None, in_output=True),
    "adapters": RecipeFact(lambda c, r: [one.task for one in r.checkpoint.adapters] or None, "files", "adapters"),
    "task": RecipeFact(lambda c, r: c.task, "setting", "task", **_BOTH),
    "side_tasks": RecipeFact(_side_tasks, None, "task", in_index=True),
    "max_seq_length": RecipeFact(lambda c, r: r.max_seq_length, "setting", "max_seq_length", **_BOTH),
    "side_lengths": RecipeFact(lambda c, r: dict(r.side_lengths) or None, None, "side_lengths", in_index=True),
    "tokenizer": RecipeFact(lambda c, r: str(r.checkpoint.rebuilt_tokenizer(c.tokenizer)), "setting", "tokenizer"),
    "truncate_dim": RecipeFact(_truncate_dim, "setting", "dimension"),
    "matryoshka": RecipeFact(lambda c, r: list(r.checkpoint.matryoshka or ()) or None, "files", None),
    "truncation_layer_norm": RecipeFact(lambda c, r: r.checkpoint.truncation_layer_norm, None, "truncation_layer_norm"),
    "config_defaults": RecipeFact(config_defaults, None, None),
    "quantization": RecipeFact(quantization, "files", "architecture", **_BOTH),
    "exact_reference": RecipeFact(lambda c, r: bool(c.exact_reference), "setting", "exact_reference", **_BOTH),
    "differences": RecipeFact(embedder_differences, None, None),
    "stored_dtype": RecipeFact(stored_dtype, None, "weights"),
    "dtype": RecipeFact(dtype, "setting", "dtype"),
    "backend": RecipeFact(lambda c, r: r.device.kind, None, None),
    "device": RecipeFact(lambda c, r: r.device.name, None, None),
    "suggestions": RecipeFact(_suggestions, None, None),
}
