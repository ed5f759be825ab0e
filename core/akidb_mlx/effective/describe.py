"""The recipe of a model in plain values: what it is, and which file or setting says so."""

from collections.abc import Mapping
from typing import Any, TypeVar

from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.effective.facts import RecipeFact
from akidb_mlx.effective.recipe import AnyRecipe, Recipe

__all__ = ["describe", "read_dimension"]

# config.json's names of the width of hidden states; an EmbeddingGemma 2 projects them in the end.
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")
_PROJECTED: Mapping[Any, tuple[str, ...]] = {
    "embedding_gemma2": ("embedding_dim",),
    "embedding_gemma2_text": ("embedding_dim",),
}

C = TypeVar("C", bound=ModelConfig)
R = TypeVar("R", bound=AnyRecipe)


def describe(config: C, recipe: R, facts: Mapping[str, RecipeFact[C, R]]) -> dict[str, Any]:
    """What a model's `info()` and `akidb-mlx info` show; nothing is loaded for it."""

    def source(name: str, fact: RecipeFact[C, R]) -> str:
        if fact.said_by == "setting" and getattr(config, name) is not None:
            return config.source_of(name)
        return recipe.checkpoint.sources.get(name, "default")

    return {
        **{name: fact.tell(config, recipe) for name, fact in facts.items()},
        "sources": {name: source(name, fact) for name, fact in facts.items() if fact.said_by is not None},
    }


def read_dimension(config: EmbedderConfig, recipe: Recipe) -> int:
    """Width of the vectors, from the files alone."""
    checkpoint = recipe.checkpoint
    if checkpoint.dense:
        width = checkpoint.dense[-1].out_features
    elif checkpoint.model_type == "static":
        header = read_header(checkpoint.weight_files[0])
        width = header["embedding.weight" if "embedding.weight" in header else "embeddings"]["shape"][1]
    else:  # DistilBERT's and the published NomicBERT's names
        said = checkpoint.config
        widths = _PROJECTED.get(said.get("model_type"), _WIDTHS)
        width = int(next(said[key] for key in widths if said.get(key))) * len(recipe.pooling)
    wanted = checkpoint.truncate_dim if config.truncate_dim is None else config.truncate_dim
    return min(width, wanted or width)
