"""FakeEmbedder: deterministic vectors without a model, for users' own tests."""

import hashlib
from collections.abc import Mapping, Sequence, Set

import numpy as np

from akidb_mlx.vectors import Embeddings, finish

__all__ = ["FakeEmbedder"]


class FakeEmbedder:
    """Unit-length vectors that depend on text and side (query or document) alone, on every machine alike.

    It satisfies `EmbedderProtocol`; the vectors mean nothing.
    """

    def __init__(self, dimension: int = 384) -> None:
        """Give vectors of `dimension` numbers."""
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
            raise ValueError(f"dimension must be a whole number of at least 1, not {dimension!r}")
        self.dimension = dimension

    @property
    def fingerprint(self) -> str:
        """Differs by dimension."""
        return hashlib.sha256(f"fake:{self.dimension}".encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings:
        """(n, dimension) float32."""
        return self._vectors("", texts)

    def encode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings:
        """As `encode`, other vectors."""
        return self._vectors("query: ", texts)

    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings:
        """The vectors of `encode`."""
        return self._vectors("", texts)

    async def aencode(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings:
        """As `encode`."""
        return self.encode(texts)

    async def aencode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings:
        """As `encode_query`."""
        return self.encode_query(texts)

    async def aencode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings:
        """As `encode_document`."""
        return self.encode_document(texts)

    def _vectors(self, prompt: str, texts: Sequence[str]) -> Embeddings:
        if isinstance(texts, str | bytes | Mapping | Set) or not hasattr(texts, "__len__"):
            raise TypeError(f"texts must be a list of str, not a {type(texts).__name__}; wrap one text in a list")
        rows = np.empty((len(texts), self.dimension), np.float32)
        for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
            if not isinstance(text, str):
                raise TypeError(f"item {index} is a {type(text).__name__}, not a str")
            digest = hashlib.sha256(f"{prompt}{text}".encode("utf-8", "surrogatepass")).digest()
            row[:] = np.random.default_rng(int.from_bytes(digest)).standard_normal(self.dimension)
        return finish(rows, self.dimension, normalize=True)
