"""Fakes of the public classes: deterministic vectors, rows and scores without a model, for users' own tests."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from akidb_mlx.maxsim import maxsim, maxsim_pairs
from akidb_mlx.multi_vector_embedder import TokenRows, as_multi_vectors
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.pipeline.inputs import checked, checked_pairs, checked_ranking
from akidb_mlx.reranker import Pair, Ranked
from akidb_mlx.scores import ranking
from akidb_mlx.sparse_rows import SparseRow, SparseRows
from akidb_mlx.sparse_scores import check_active_dims, greatest, similarity
from akidb_mlx.vectors import Embeddings, finish

__all__ = ["FakeEmbedder", "FakeMultiVectorEmbedder", "FakeReranker", "FakeSparseEmbedder"]


class FakeEmbedder:
    """Unit-length vectors that depend on text and side (query or document) alone, on every machine alike.

    It satisfies `EmbedderProtocol`; the vectors mean nothing.

    Examples:
        >>> embedder = FakeEmbedder(dimension=8)
        >>> embedder.encode_document(["a text", "another"]).shape
        (2, 8)
    """

    def __init__(self, dimension: int = 384) -> None:
        """Give vectors of `dimension` numbers."""
        self.dimension = _checked_dimension(dimension)

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
        texts = checked(texts)
        rows = np.empty((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = np.random.default_rng(int.from_bytes(_digest(prompt, text))).standard_normal(self.dimension)
        return finish(rows, self.dimension, normalize=True)


class FakeReranker:
    """Scores from 0 to below 1 that depend on query and text alone, on every machine alike.

    It satisfies `RerankerProtocol` and refuses what `Reranker` refuses; the scores mean nothing.

    Examples:
        >>> FakeReranker().rank("a question", ["a text", "another"], top_k=1)[0].corpus_id in (0, 1)
        True
    """

    @property
    def fingerprint(self) -> str:
        """Always the same."""
        return _digest("fake reranker").hex()

    def predict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings:
        """Score pairs (query, text): (n,) float32 in their order."""
        return self._scores(checked_pairs(pairs))

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, *, show_progress: bool = False
    ) -> list[Ranked]:
        """Documents by their score, best first, equal ones in the given order; at most `top_k`."""
        documents = checked_ranking(query, documents, top_k)
        return ranking(self._scores([(query, document) for document in documents]), top_k)

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


class FakeSparseEmbedder:
    """Rows with an entry for each word of a text, on every machine alike: texts with a word in common are similar.

    It satisfies `SparseEmbedderProtocol` and refuses what `SparseEmbedder` refuses; places and weights mean nothing
    else. Words differ in more than case, and seldom share a place.

    Examples:
        >>> embedder = FakeSparseEmbedder()
        >>> places, weights = embedder.encode_document(["two words"])[0]
        >>> len(places)
        2
    """

    def __init__(self, dimension: int = 30_522) -> None:
        """Give rows of `dimension` places."""
        self.dimension = _checked_dimension(dimension)

    @property
    def fingerprint(self) -> str:
        """Differs by dimension."""
        return _digest(f"fake sparse:{self.dimension}").hex()

    def encode(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """A word's weight is 1 to below 2, and as much more for each time that it stands there again."""
        check_active_dims(max_active_dims)
        rows = [self._row(text) for text in checked(texts)]
        if max_active_dims is not None:
            rows = [greatest(row, max_active_dims) for row in rows]
        return SparseRows.of(rows, self.dimension)

    def encode_query(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """The rows of `encode`."""
        return self.encode(texts, max_active_dims=max_active_dims)

    def encode_document(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """The rows of `encode`."""
        return self.encode(texts, max_active_dims=max_active_dims)

    async def aencode(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """As `encode`."""
        return self.encode(texts, max_active_dims=max_active_dims)

    async def aencode_query(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """As `encode`."""
        return self.encode(texts, max_active_dims=max_active_dims)

    async def aencode_document(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """As `encode`."""
        return self.encode(texts, max_active_dims=max_active_dims)

    def similarity(self, a: SparseRows, b: SparseRows) -> Embeddings:
        """(n, m) dot products of rows `a` with rows `b`."""
        return similarity(a, b, "dot")

    def _row(self, text: str) -> SparseRow:
        weights: Counter[int] = Counter()
        for word in re.findall(r"\w+", text.lower()):
            digest = _digest("word:", word)
            # 8 bits: every such fraction is a float32, and so are sums of some thousands
            weights[int.from_bytes(digest[:8]) % self.dimension] += 256 + digest[8]
        places = sorted(weights)
        values = np.array([weights[place] for place in places], np.float32) / np.float32(256)
        return np.array(places, np.int32), values


class FakeMultiVectorEmbedder:
    """A unit-length vector for each word of a text: equal words have equal vectors, on every machine.

    So a query's score is about the number of its words that a document has. It satisfies `MultiVectorEmbedderProtocol`
    and `RerankerProtocol`, and refuses what `MultiVectorEmbedder` refuses.

    Examples:
        >>> embedder = FakeMultiVectorEmbedder(dimension=8)
        >>> embedder.encode_document(["three short words"])[0].shape
        (3, 8)
    """

    def __init__(self, dimension: int = 128) -> None:
        """Give vectors of `dimension` numbers."""
        self.dimension = _checked_dimension(dimension)

    @property
    def fingerprint(self) -> str:
        """Differs by dimension."""
        return _digest("fake multi-vector: ", str(self.dimension)).hex()

    def encode(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """A row of vectors for each text, one for each of its words; an empty text has none."""
        return MultiVectors.of([self._vectors(text.split()) for text in checked(texts)], self.dimension)

    def encode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """As `encode`."""
        return self.encode(texts)

    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """As `encode`."""
        return self.encode(texts)

    async def aencode(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """As `encode`."""
        return self.encode(texts)

    async def aencode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """As `encode`."""
        return self.encode(texts)

    async def aencode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """As `encode`."""
        return self.encode(texts)

    def similarity(self, queries: TokenRows, documents: TokenRows) -> Embeddings:
        """(n, m) float32 MaxSim."""
        return maxsim(as_multi_vectors(queries, self.dimension), as_multi_vectors(documents, self.dimension))

    def predict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings:
        """Score pairs (query, text): (n,) float32 in their order."""
        some = checked_pairs(pairs)
        return maxsim_pairs(self.encode([query for query, _ in some]), self.encode([text for _, text in some]))

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, *, show_progress: bool = False
    ) -> list[Ranked]:
        """Documents by their score, best first, equal ones in the given order; at most `top_k`."""
        documents = checked_ranking(query, documents, top_k)
        return ranking(self.similarity(self.encode([query]), self.encode(documents))[0], top_k)

    async def apredict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings:
        """As `predict`."""
        return self.predict(pairs)

    async def arank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, *, show_progress: bool = False
    ) -> list[Ranked]:
        """As `rank`."""
        return self.rank(query, documents, top_k)

    def _vectors(self, words: Sequence[str]) -> Embeddings:
        rows = np.empty((len(words), self.dimension), np.float32)
        for row, word in zip(rows, words, strict=True):
            row[:] = np.random.default_rng(int.from_bytes(_digest(word))).standard_normal(self.dimension)
        return finish(rows, self.dimension, normalize=True)


def _checked_dimension(dimension: int) -> int:
    if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
        raise ValueError(f"dimension must be a whole number of at least 1, not {dimension!r}")
    return dimension


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).digest()
