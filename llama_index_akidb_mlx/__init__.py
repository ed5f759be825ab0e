"""LlamaIndex embeddings, sparse embeddings and rerankers on Apple's MLX."""

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f'{error}: pip install "akidb-mlx[llama-index]"', name=error.name) from None

from akidb_mlx.recipe import check_recipe, ensure_recipe, recipe_metadata, save_recipe
from llama_index_akidb_mlx.embedding import AkiDBMLXEmbedding
from llama_index_akidb_mlx.rerank import AkiDBMLXRerank
from llama_index_akidb_mlx.sparse import AkiDBMLXSparseEmbedding

__all__ = [
    "AkiDBMLXEmbedding",
    "AkiDBMLXRerank",
    "AkiDBMLXSparseEmbedding",
    "check_recipe",
    "ensure_recipe",
    "recipe_metadata",
    "save_recipe",
]
