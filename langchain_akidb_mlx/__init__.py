"""LangChain embeddings and rerankers on Apple's MLX."""

from akidb_mlx.recipe import check_recipe, ensure_recipe, recipe_metadata, save_recipe
from langchain_akidb_mlx.embeddings import AkiDBMLXEmbeddings
from langchain_akidb_mlx.reranker import AkiDBMLXReranker

__all__ = [
    "AkiDBMLXEmbeddings",
    "AkiDBMLXReranker",
    "check_recipe",
    "ensure_recipe",
    "recipe_metadata",
    "save_recipe",
]
