"""LlamaIndex embeddings on Apple's MLX."""

from llama_index_akidb_mlx.embedding import AkiDBMLXEmbedding

__all__ = ["AkiDBMLXEmbedding"]
