"""LangChain embeddings and rerankers on Apple's MLX."""

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f'{error}: pip install "akidb-mlx[langchain]"', name=error.name) from None

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
