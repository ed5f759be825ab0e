"""The kinds of models that a server has: which configuration says one, what loads it, which routes take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.reranker import Reranker
from akidb_mlx.server.variants import RowFace, Variants
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = [
    "ARTICLES",
    "CONFIGS",
    "OPTIONS",
    "ROUTES",
    "Loaded",
    "ServedConfig",
    "ServedKind",
    "ServedModel",
    "config_kind",
    "load_model",
    "serves",
]

ServedKind = Literal["embedder", "reranker", "sparse", "multi_vector", "hybrid"]
Loaded = Embedder | Reranker | SparseEmbedder | MultiVectorEmbedder | HybridEmbedder


ServedConfig = EmbedderConfig | RerankerConfig | SparseConfig | MultiVectorConfig

CONFIGS: dict[ServedKind, type[ServedConfig]] = {
    "embedder": EmbedderConfig,
    "reranker": RerankerConfig,
    "sparse": SparseConfig,
    "multi_vector": MultiVectorConfig,
    "hybrid": HybridConfig,
}
ROUTES: dict[ServedKind, str] = {
    "embedder": "/v1/embeddings and /api/v1/embed",
    "reranker": "/rerank, /v1/rerank, /v2/rerank and /score",
    "sparse": "/embed_sparse",
    "multi_vector": "/pooling",
    "hybrid": "/api/v1/hybrid",
}
ARTICLES: dict[ServedKind, str] = {
    "embedder": "an embedder",
    "reranker": "a reranker",
    "sparse": "a sparse encoder",
    "multi_vector": "a multi-vector model",
    "hybrid": "a hybrid model",
}
OPTIONS: dict[ServedKind, str] = {
    "embedder": "--model",
    "reranker": "--reranker",
    "sparse": "--sparse",
    "multi_vector": "--multi",
    "hybrid": "--hybrid",
}
# A hybrid model's rows of one form are asked for on that form's routes.
_ALSO: dict[ServedKind, frozenset[ServedKind]] = {"hybrid": frozenset({"embedder", "sparse", "multi_vector"})}
# Kind → the property that gives it.
_FACES: dict[ServedKind, str] = {
    "embedder": "embedder",
    "reranker": "reranker",
    "sparse": "sparse",
    "multi_vector": "multi",
}


def config_kind(config: ServedConfig) -> ServedKind:
    """What a configuration says."""
    return next(kind for kind, one in CONFIGS.items() if type(config) is one)


def serves(kind: ServedKind, asked: ServedKind) -> bool:
    """Whether a model of one kind answers what is asked of another."""
    return kind == asked or asked in _ALSO.get(kind, ())


def load_model(config: ServedConfig) -> Loaded:
    """Load what a configuration says."""
    if isinstance(config, RerankerConfig):
        return Reranker.load(config)
    if isinstance(config, SparseConfig):
        return SparseEmbedder.load(config)
    if isinstance(config, MultiVectorConfig):
        return MultiVectorEmbedder.load(config)
    if isinstance(config, HybridConfig):
        return HybridEmbedder.load(config.plain())
    return Embedder.load(config)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model under the name that requests give; its kind says which of the properties may be read."""

    name: str
    kind: ServedKind
    model: Loaded
    facts: Mapping[str, Any]
    """`info()` at the time of loading."""
    variants: Variants = field(default_factory=Variants, compare=False, repr=False)
    """What requests with settings of their own get."""

    def face(self, asked: ServedKind) -> RowFace:
        """What answers of one kind, which this model serves: a hybrid model has several."""
        return cast(RowFace, getattr(self, _FACES[asked]))

    @property
    def encoder(self) -> Embedder | SparseEmbedder | MultiVectorEmbedder | HybridEmbedder:
        """What gives rows of any form: all but a reranker."""
        return cast(Embedder, self.model)

    @property
    def embedder(self) -> Embedder:
        """What gives dense rows."""
        return self.hybrid.dense if self.kind == "hybrid" else cast(Embedder, self.model)

    @property
    def reranker(self) -> Reranker:
        """What gives scores."""
        return cast(Reranker, self.model)

    @property
    def sparse(self) -> SparseEmbedder:
        """What gives sparse rows."""
        return self.hybrid.sparse if self.kind == "hybrid" else cast(SparseEmbedder, self.model)

    @property
    def multi(self) -> MultiVectorEmbedder:
        """What gives vectors per token."""
        return self.hybrid.multi if self.kind == "hybrid" else cast(MultiVectorEmbedder, self.model)

    @property
    def hybrid(self) -> HybridEmbedder:
        """What gives all three."""
        return cast(HybridEmbedder, self.model)
