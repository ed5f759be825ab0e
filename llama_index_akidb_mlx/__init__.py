"""LlamaIndex embeddings on Apple's MLX."""

from akidb_mlx.recipe import check_recipe, ensure_recipe, recipe_metadata, save_recipe
from llama_index_akidb_mlx.embedding import AkiDBMLXEmbedding

__all__ = ["AkiDBMLXEmbedding", "check_recipe", "ensure_recipe", "recipe_metadata", "save_recipe"]
