"""Splitters for models: long texts → chunks that are read whole."""

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.pipeline.text_splitter import Chunk, TextSplitter
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["Chunk", "TextSplitter", "splitter_for"]


def splitter_for(
    model: Embedder | SparseEmbedder | MultiVectorEmbedder | HybridEmbedder,
    max_tokens: int | None = None,
    overlap: int = 0,
    *,
    side: Side = "document",
) -> TextSplitter:
    """What cuts long texts by the model's own tokens, so that it reads each chunk whole.

    Args:
        model: whose tokens count; the prompt of `side`, special tokens and a chat template are accounted for.
        max_tokens: most tokens of a chunk with all these; None: what the model reads (`max_seq_length`).
        overlap: tokens that two neighbours have in common, less than half a chunk.
        side: what the chunks are embedded as.

    Raises:
        ConfigError: numbers that do not fit the model.

    Examples:
        >>> splitter = splitter_for(embedder, max_tokens=12)
        >>> [chunk.text for chunk in splitter.split("Tides follow the moon. Wild yeast makes sourdough rise.")]
        ['Tides follow the moon.', 'Wild yeast makes sourdough rise.']
    """
    face = model.dense if isinstance(model, HybridEmbedder) else model
    if not hasattr(face, "_encoder"):
        raise ConfigError(
            f"a {type(face).__name__} has no tokenizer here; load the model in this process to split texts"
        )
    prompt = face._prompts.choose(side=side)
    return TextSplitter(face._loaded.tokenizer, face._encoder, prompt, side, max_tokens, overlap)
