"""What holds for one embedder: the checkpoint's word with the user's on top."""

from collections.abc import Mapping
from typing import Any

from akidb_mlx.config import EmbedderConfig
from akidb_mlx.errors import UnsupportedModelError
from akidb_mlx.loaded import Recipe

__all__ = ["document_prompt", "effective_normalize", "effective_prompts", "fingerprint_facts"]


def effective_prompts(config: EmbedderConfig, recipe: Recipe) -> dict[str, str]:
    """Prompts by name, the user's query and document prompts among them."""
    said = {"query": config.query_prompt, "document": config.document_prompt}
    return {**recipe.checkpoint.prompts, **{name: prompt for name, prompt in said.items() if prompt is not None}}


def document_prompt(config: EmbedderConfig, prompts: Mapping[str, str]) -> str:
    """The user's document prompt, else the first of `document`, `passage` and `corpus` that is not empty."""
    if config.document_prompt is not None:
        return config.document_prompt
    return next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")


def effective_normalize(config: EmbedderConfig, recipe: Recipe) -> bool:
    """Whether rows are scaled to unit length; UnsupportedModelError where nobody says."""
    if config.normalize is not None:
        return config.normalize
    if recipe.checkpoint.normalize is None:
        raise UnsupportedModelError(
            f"{recipe.checkpoint.name} does not say whether its vectors are scaled to unit length; set normalize"
        )
    return recipe.checkpoint.normalize


def fingerprint_facts(config: EmbedderConfig, recipe: Recipe, dimension: int) -> dict[str, Any]:
    """What `fingerprint` hashes."""
    prompts = effective_prompts(config, recipe)
    return {
        "checkpoint": recipe.checkpoint,
        "pooling": recipe.pooling,
        "prompts": {**prompts, "document": document_prompt(config, prompts), "query": prompts.get("query", "")},
        "default_prompt": recipe.checkpoint.default_prompt_name,
        "normalize": effective_normalize(config, recipe),
        "dimension": dimension,
        "max_seq_length": recipe.max_seq_length,
        "dtype": config.dtype,
    }
