"""A model of any kind: the configuration that says which, what the kind is called, and what loads it."""

from typing import Literal

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.reranker import Reranker
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["ARTICLES", "CONFIGS", "AnyConfig", "AnyModel", "ModelKind", "load_any"]

ModelKind = Literal["embedder", "reranker", "sparse", "multi_vector", "hybrid"]
AnyConfig = EmbedderConfig | RerankerConfig | SparseConfig | MultiVectorConfig
AnyModel = Embedder | Reranker | SparseEmbedder | MultiVectorEmbedder | HybridEmbedder

CONFIGS: dict[ModelKind, type[AnyConfig]] = {
    "embedder": EmbedderConfig,
    "reranker": RerankerConfig,
    "sparse": SparseConfig,
    "multi_vector": MultiVectorConfig,
    "hybrid": HybridConfig,
}
ARTICLES: dict[ModelKind, str] = {
    "embedder": "an embedder",
    "reranker": "a reranker",
    "sparse": "a sparse encoder",
    "multi_vector": "a multi-vector model",
    "hybrid": "a hybrid model",
}


def load_any(config: AnyConfig) -> AnyModel:
    """The model of this configuration; whoever asks closes it."""
    if isinstance(config, RerankerConfig):
        return Reranker.load(config)
    if isinstance(config, SparseConfig):
        return SparseEmbedder.load(config)
    if isinstance(config, MultiVectorConfig):
        return MultiVectorEmbedder.load(config)
    return HybridEmbedder.load(config.plain()) if isinstance(config, HybridConfig) else Embedder.load(config)
