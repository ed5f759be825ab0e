"""LangChain embeddings on Apple's MLX."""

from akidb_mlx.recipe import check_recipe, ensure_recipe, recipe_metadata, save_recipe
from langchain_akidb_mlx.embeddings import AkiDBMLXEmbeddings

__all__ = ["AkiDBMLXEmbeddings", "check_recipe", "ensure_recipe", "recipe_metadata", "save_recipe"]
