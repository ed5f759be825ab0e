"""The recipe of a model in plain values: what it is, and which file or setting says so."""

from typing import Any

from akidb_mlx.config import EmbedderConfig
from akidb_mlx.loaded import Recipe

__all__ = ["describe"]


def describe(config: EmbedderConfig, recipe: Recipe) -> dict[str, Any]:
    """What `Embedder.info()` and `akidb-mlx info` show; nothing is loaded for it."""
    checkpoint = recipe.checkpoint

    def source(fact: str, field: str | None = None) -> str:
        if field is not None and getattr(config, field) is not None:
            return config.source_of(field)
        return checkpoint.sources.get(fact, "default")

    dense = [f"{layer.in_features} → {layer.out_features} {layer.activation}" for layer in checkpoint.dense]
    normalize = checkpoint.normalize if config.normalize is None else config.normalize
    return {
        "model_name": checkpoint.name,
        "revision": checkpoint.revision,
        "path": str(checkpoint.path),
        "architecture": checkpoint.model_type,
        "pooling": "+".join(recipe.pooling),
        "include_prompt": checkpoint.include_prompt,
        "dense": dense,
        "normalize": normalize,
        "prompts": dict(checkpoint.prompts),
        "query_prompt": config.query_prompt,
        "document_prompt": config.document_prompt,
        "default_prompt_name": checkpoint.default_prompt_name,
        "similarity": checkpoint.similarity,
        "max_seq_length": recipe.max_seq_length,
        "truncate_dim": config.truncate_dim,
        "matryoshka": list(checkpoint.matryoshka or ()) or None,
        "quantization": dict(checkpoint.quantization) if checkpoint.quantization else None,
        "dtype": config.dtype or ("float32" if recipe.device.kind == "cpu" else "as stored"),
        "backend": recipe.device.kind,
        "device": recipe.device.name,
        "sources": {
            "architecture": source("architecture"),
            "pooling": source("pooling", "pooling"),
            "dense": source("dense"),
            "normalize": source("normalize", "normalize"),
            "prompts": source("prompts"),
            "similarity": source("similarity"),
            "max_seq_length": source("max_seq_length", "max_seq_length"),
            "quantization": source("quantization"),
        },
    }
