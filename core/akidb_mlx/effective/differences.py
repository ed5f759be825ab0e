"""Where rows are meant to be others than sentence-transformers', and what undoes it (`exact_reference`)."""

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.effective.recipe import AnyRecipe, Recipe

__all__ = ["embedder_differences", "token_differences"]


def token_differences(_: ModelConfig, recipe: AnyRecipe) -> list[str]:
    """Of any kind of model: the end token."""
    token = recipe.checkpoint.tokenizer_rules.get("append")
    return [f"{token} ends each text, as tokenizer_config.json says; sentence-transformers adds none"] if token else []


def embedder_differences(config: EmbedderConfig, recipe: Recipe) -> list[str]:
    """In words, those that hold for this model and these settings; none with `exact_reference`."""
    said = token_differences(config, recipe)
    if config.exact_reference:
        return said
    if config.document_prompt is None:
        named = recipe.checkpoint.prompts
        used = next((name for name in ("document", "passage", "corpus") if named.get(name)), None)
        if used not in (None, "document"):
            said.append(f"the prompt {used!r} serves documents; sentence-transformers puts none before them")
    cut = recipe.checkpoint.truncate_dim if config.truncate_dim is None else config.truncate_dim
    scaled = recipe.checkpoint.normalize and config.normalize is None
    if cut is not None and scaled:
        said.append("cut rows are scaled to unit length again; sentence-transformers leaves them shorter")
    return said
