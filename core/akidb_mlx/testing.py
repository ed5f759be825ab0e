"""FakeEmbedder and FakeReranker: deterministic vectors and scores without a model, for users' own tests."""

import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from akidb_mlx.errors import InputError
from akidb_mlx.reranker import Pair, Ranked
from akidb_mlx.vectors import Embeddings, finish

__all__ = ["FakeEmbedder", "FakeReranker"]


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
        texts = _checked_texts(texts)
        rows = np.empty((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = np.random.default_rng(int.from_bytes(_digest(prompt, text))).standard_normal(self.dimension)
        return finish(rows, self.dimension, normalize=True)


class FakeReranker:
    """Scores from 0 to below 1 that depend on query and text alone, on every machine alike.

    It satisfies `RerankerProtocol` and refuses what `Reranker` refuses; the scores mean nothing.
    """

    @property
    def fingerprint(self) -> str:
        """Always the same."""
        return _digest("fake reranker").hex()

    def predict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings:
        """Score pairs (query, text): (n,) float32 in their order."""
        return self._scores(_checked_pairs(pairs))

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, *, show_progress: bool = False
    ) -> list[Ranked]:
        """Documents by their score, best first, equal ones in the given order; at most `top_k`."""
        if not isinstance(query, str):
            raise TypeError(f"the query is a {type(query).__name__}, not a str")
        texts = _checked_texts(documents, "documents")
        scores = self._scores([(query, text) for text in texts]).tolist()
        ranking = sorted(map(Ranked, range(len(scores)), scores), key=lambda ranked: -ranked.score)
        return ranking[: _checked_top_k(top_k)]

    async def apredict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings:
        """As `predict`."""
        return self.predict(pairs)

    async def arank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, *, show_progress: bool = False
    ) -> list[Ranked]:
        """As `rank`."""
        return self.rank(query, documents, top_k)

    def _scores(self, pairs: Sequence[Pair]) -> Embeddings:
        # 24 bits: every such fraction is a float32
        numbers = [int.from_bytes(_digest(str(len(query)), ":", query, text)[:3]) for query, text in pairs]
        return np.array(numbers, np.float32) / np.float32(2**24)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).digest()


def _checked_texts(texts: Sequence[str], name: str = "texts") -> Sequence[str]:
    for index, text in enumerate(_checked_list(texts, name, "str", "one text")):
        if not isinstance(text, str):
            raise TypeError(f"item {index} is a {type(text).__name__}, not a str")
    return texts


def _checked_pairs(pairs: Sequence[Pair]) -> Sequence[Pair]:
    for index, pair in enumerate(_checked_list(pairs, "pairs", "(query, text)", "one pair")):
        if isinstance(pair, str):
            raise TypeError(f"item {index} is a str, not a pair (query, text); wrap one pair in a list")
        if not isinstance(pair, tuple | list):
            raise TypeError(f"item {index} is a {type(pair).__name__}, not a pair (query, text)")
        if len(pair) != 2:
            raise TypeError(f"item {index} has length {len(pair)}; a pair is (query, text)")
        for side, text in zip(("query", "text"), pair, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"item {index}: its {side} is a {type(text).__name__}, not a str")
    return pairs


def _checked_list(items: Any, name: str, of: str, one: str) -> Sequence[Any]:
    """What has an order and a length, and is not itself one item."""
    if isinstance(items, str | bytes | Mapping | Set) or not hasattr(items, "__len__"):
        raise TypeError(f"{name} must be a list of {of}, not a {type(items).__name__}; wrap {one} in a list")
    listed: Sequence[Any] = items
    return listed


def _checked_top_k(top_k: int | None) -> int | None:
    if top_k is None:
        return None
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise TypeError(f"top_k must be a whole number, not {top_k!r}")
    if top_k < 0:
        raise InputError(f"top_k is {top_k}; it must be at least 0, or None for all")
    return top_k
