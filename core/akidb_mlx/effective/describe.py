"""The recipe of a model in plain values: what it is, and which file or setting says so."""

from typing import Any

from akidb_mlx.checkpoint.safetensors_header import read_float_dtype, read_header
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.effective.prompts import effective_prompts
from akidb_mlx.effective.recipe import Recipe

__all__ = ["describe", "read_dimension"]

# Facts that a setting of the same or another name decides; the others are the checkpoint's alone.
_SETTINGS = {
    "pooling": "pooling",
    "normalize": "normalize",
    "query_prompt": "query_prompt",
    "document_prompt": "document_prompt",
    "max_seq_length": "max_seq_length",
    "truncate_dim": "truncate_dim",
    "dtype": "dtype",
}
_FACTS = (
    "architecture",
    "pooling",
    "dense",
    "normalize",
    "prompts",
    "query_prompt",
    "document_prompt",
    "similarity",
    "max_seq_length",
    "truncate_dim",
    "matryoshka",
    "quantization",
    "dtype",
)


def describe(config: EmbedderConfig, recipe: Recipe) -> dict[str, Any]:
    """What `Embedder.info()` and `akidb-mlx info` show; nothing is loaded for it."""
    checkpoint = recipe.checkpoint

    def source(fact: str) -> str:
        setting = _SETTINGS.get(fact)
        if setting is not None and getattr(config, setting) is not None:
            return config.source_of(setting)
        return checkpoint.sources.get(fact, "default")

    dense = [f"{layer.in_features} → {layer.out_features} {layer.activation}" for layer in checkpoint.dense]
    stored = read_float_dtype(checkpoint.weight_files)
    return {
        "model_name": checkpoint.name,
        "revision": checkpoint.revision,
        "path": str(checkpoint.path),
        "architecture": checkpoint.model_type,
        "pooling": "+".join(recipe.pooling),
        "include_prompt": checkpoint.include_prompt,
        "dense": dense,
        "normalize": checkpoint.normalize if config.normalize is None else config.normalize,
        "prompts": dict(checkpoint.prompts),
        "query_prompt": config.query_prompt,
        "document_prompt": config.document_prompt,
        "default_prompt_name": checkpoint.default_prompt_name,
        "similarity": checkpoint.similarity,
        "max_seq_length": recipe.max_seq_length,
        "truncate_dim": checkpoint.truncate_dim if config.truncate_dim is None else config.truncate_dim,
        "matryoshka": list(checkpoint.matryoshka or ()) or None,
        "truncation_layer_norm": checkpoint.truncation_layer_norm,
        "quantization": dict(checkpoint.quantization) if checkpoint.quantization else None,
        "stored_dtype": stored,
        "dtype": recipe.device.dtype(stored, config.dtype),
        "backend": recipe.device.kind,
        "device": recipe.device.name,
        "suggestions": _suggestions(config, recipe),
        "sources": {fact: source(fact) for fact in _FACTS},
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
        width = int(said.get("hidden_size") or said.get("dim") or said["n_embd"]) * len(recipe.pooling)
    wanted = checkpoint.truncate_dim if config.truncate_dim is None else config.truncate_dim
    return min(width, wanted or width)


def _suggestions(config: EmbedderConfig, recipe: Recipe) -> list[str]:
    """What the model's family recommends and neither the files nor the user say."""
    prompts = effective_prompts(config, recipe).named
    sides = {"query": config.query_prompt, "document": config.document_prompt}
    said = [f"{side}_prompt=" for side, prompt in sides.items() if prompt is not None or prompts.get(side)]
    return [text for text in recipe.checkpoint.suggestions if not text.startswith(tuple(said) or "\n")]
