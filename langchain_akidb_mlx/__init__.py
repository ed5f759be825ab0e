"""LangChain embeddings on Apple's MLX."""

from langchain_akidb_mlx.embeddings import AkiDBMLXEmbeddings

__all__ = ["AkiDBMLXEmbeddings"]
