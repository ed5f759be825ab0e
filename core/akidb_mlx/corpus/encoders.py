"""The encoder of each kind of rows, by its configuration."""

from typing import Any, cast

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["load_encoder"]


def load_encoder(config: ModelConfig, kind: str = "dense") -> Any:
    """Load what gives rows of this kind: `Embedder`, `SparseEmbedder`, `MultiVectorEmbedder` or `HybridEmbedder`.

    Raises:
        UnsupportedModelError: the model is of another kind; and what loading raises: ConfigError, ModelNotFoundError,
            CheckpointError, BackendError.
    """
    if kind == "sparse":
        return SparseEmbedder.load(cast(SparseConfig, config))
    if kind == "multi":
        return MultiVectorEmbedder.load(cast(MultiVectorConfig, config))
    face = HybridEmbedder if kind == "hybrid" else Embedder
    return face.load(cast(EmbedderConfig, config))
