"""Local text embeddings on Apple's MLX, with the vectors of sentence-transformers."""

from akidb_mlx.device import blas

blas.preload()  # before anything imports mlx.core

from akidb_mlx import errors  # noqa: E402
from akidb_mlx.config.embedder_config import EmbedderConfig  # noqa: E402
from akidb_mlx.config.multi_vector_config import MultiVectorConfig  # noqa: E402
from akidb_mlx.config.reranker_config import RerankerConfig  # noqa: E402
from akidb_mlx.config.sparse_config import SparseConfig  # noqa: E402
from akidb_mlx.embedder import Embedder, EmbedderProtocol  # noqa: E402
from akidb_mlx.hybrid_embedder import Hybrid, HybridEmbedder, HybridScores  # noqa: E402
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder, MultiVectorEmbedderProtocol  # noqa: E402
from akidb_mlx.multi_vectors import MultiVectors  # noqa: E402
from akidb_mlx.remote.embedder import RemoteEmbedder  # noqa: E402
from akidb_mlx.remote.multi_vector_embedder import RemoteMultiVectorEmbedder  # noqa: E402
from akidb_mlx.remote.reranker import RemoteReranker  # noqa: E402
from akidb_mlx.remote.sparse_embedder import RemoteSparseEmbedder  # noqa: E402
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
    "Hybrid",
    "HybridEmbedder",
    "HybridScores",
    "MultiVectorConfig",
    "MultiVectorEmbedder",
    "MultiVectorEmbedderProtocol",
    "MultiVectors",
    "Ranked",
    "RemoteEmbedder",
    "RemoteMultiVectorEmbedder",
    "RemoteReranker",
    "RemoteSparseEmbedder",
    "Reranker",
    "RerankerConfig",
    "RerankerProtocol",
    "SparseConfig",
    "SparseEmbedder",
    "SparseEmbedderProtocol",
    "SparseRows",
    "errors",
]
