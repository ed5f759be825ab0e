"""The kinds of models that a server has: which configuration says one, what loads it, which routes take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from akidb_mlx.any_model import CONFIGS, AnyConfig, AnyModel, ModelKind
from akidb_mlx.embedder import Embedder
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.reranker import Reranker
from akidb_mlx.server.variants import RowFace, Variants
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = [
    "OPTIONS",
    "ROUTES",
    "Loaded",
    "ServedConfig",
    "ServedKind",
    "ServedModel",
    "config_kind",
    "serves",
]

ServedKind = ModelKind
ServedConfig = AnyConfig
Loaded = AnyModel

ROUTES: dict[ServedKind, str] = {
    "embedder": "/v1/embeddings and /api/v1/embed",
    "reranker": "/rerank, /v1/rerank, /v2/rerank and /score",
    "sparse": "/embed_sparse",
    "multi_vector": "/pooling",
    "hybrid": "/api/v1/hybrid",
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
