"""Local text embeddings on Apple's MLX, with the vectors of sentence-transformers."""

from akidb_mlx.device import blas

blas.preload()  # before anything imports mlx.core

from akidb_mlx import errors  # noqa: E402
from akidb_mlx.config.embedder_config import EmbedderConfig  # noqa: E402
from akidb_mlx.config.reranker_config import RerankerConfig  # noqa: E402
from akidb_mlx.config.sparse_config import SparseConfig  # noqa: E402
from akidb_mlx.embedder import Embedder, EmbedderProtocol  # noqa: E402
from akidb_mlx.reranker import Ranked, Reranker, RerankerProtocol  # noqa: E402
from akidb_mlx.service import EmbeddingService  # noqa: E402
from akidb_mlx.sparse_embedder import SparseEmbedder, SparseEmbedderProtocol  # noqa: E402
from akidb_mlx.sparse_rows import SparseRows  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    "Embedder",
    "EmbedderConfig",
    "EmbedderProtocol",
    "EmbeddingService",
    "Ranked",
    "Reranker",
    "RerankerConfig",
    "RerankerProtocol",
    "SparseConfig",
    "SparseEmbedder",
    "SparseEmbedderProtocol",
    "SparseRows",
    "errors",
]
