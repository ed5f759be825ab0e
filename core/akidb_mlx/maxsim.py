"""MaxSim, the score of late interaction: for each token of a query its best token of a document, added up.

Khattab and Zaharia 2020, arXiv:2004.12832. Pure NumPy, float32, in blocks of bounded size.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import InputError
from akidb_mlx.multi_vectors import MultiVectors, TokenVectors
from akidb_mlx.vectors import Embeddings

__all__ = [
    "EMPTY_DOCUMENT",
    "Similarity",
    "TokenPair",
    "finish_scores",
    "maxsim",
    "maxsim_pairs",
    "refuse_other_widths",
    "token_pairs",
]

Similarity = Literal["maxsim", "meanmaxsim"]

EMPTY_DOCUMENT = np.float32(-1e9)
"""Score of a document without vectors, below any other; sentence-transformers' number."""
# float32 numbers of one block of products (64 MiB): each smaller one costs the threads of the BLAS more to begin.
_BLOCK = 2**24


class TokenPair(NamedTuple):
    """A token of a query and the token of a document that answers it best."""

    query_token: int
    document_token: int
    score: float


def maxsim(queries: MultiVectors, documents: MultiVectors, similarity: Similarity = "maxsim") -> Embeddings:
    """(n, m) float32 scores of n queries against m documents: Σ over a query's tokens of max over a document's.

    "meanmaxsim" divides by the query's tokens. A document without vectors scores `EMPTY_DOCUMENT`, a query without
    any 0.

    Raises:
        InputError: vectors of different widths.
    """
    refuse_other_widths(queries, documents)
    scores = np.empty((len(queries), len(documents)), np.float32)
    for query_part, document_part in _blocks(queries, documents):
        scores[query_part, document_part] = _block(_part(queries, query_part), _part(documents, document_part))
    return finish_scores(scores, queries, similarity)


def maxsim_pairs(queries: MultiVectors, documents: MultiVectors, similarity: Similarity = "maxsim") -> Embeddings:
    """(n,) float32 scores of query i against document i, as `maxsim`."""
    refuse_other_widths(queries, documents)
    if len(queries) != len(documents):
        raise InputError(f"{len(queries)} queries and {len(documents)} documents are no pairs")
    scores = [_best(query, document) for query, document in zip(queries, documents, strict=True)]
    column = np.array(scores, np.float32)[:, None] if scores else np.empty((0, 1), np.float32)
    return finish_scores(column, queries, similarity)[:, 0]


def token_pairs(query: TokenVectors, document: TokenVectors) -> list[TokenPair]:
    """What adds up to the score of a query and a document: for each of the query's tokens the best of the document's.

    In the order of the query's tokens; none where either has no vectors. Of equal ones the first counts.
    """
    if not len(query) or not len(document):
        return []
    products = np.asarray(query, np.float32) @ np.asarray(document, np.float32).T
    best = products.argmax(axis=1)
    return [TokenPair(place, int(token), float(products[place, token])) for place, token in enumerate(best)]


def _cut(lengths: NDArray[np.int64], most: int) -> list[slice]:
    """Documents of `lengths` vectors in turn, at most `most` vectors together, or one document."""
    ends = np.cumsum(lengths)
    blocks: list[slice] = []
    start = 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        blocks.append(slice(start, stop))
        start = stop
    return blocks


def refuse_other_widths(queries: MultiVectors, documents: MultiVectors) -> None:
    """Raise InputError where vectors of queries and documents have different widths."""
    if len(queries) and len(documents) and queries.dimension != documents.dimension:
        raise InputError(f"queries have {queries.dimension} dimensions and documents {documents.dimension}")


def _blocks(queries: MultiVectors, documents: MultiVectors) -> Sequence[tuple[slice, slice]]:
    """Queries with all documents, block by block: the products fit into `_BLOCK`."""
    by_query = _cut(np.diff(queries.offsets), int(_BLOCK**0.5))
    pairs = []
    for part in by_query:
        vectors = max(1, int(queries.offsets[part.stop] - queries.offsets[part.start]))
        pairs += [(part, block) for block in _cut(np.diff(documents.offsets), max(1, _BLOCK // vectors))]
    return pairs


def _part(whole: MultiVectors, part: slice) -> MultiVectors:
    """Some texts in float32, without a copy where they are in that already."""
    offsets = whole.offsets[part.start : part.stop + 1]
    vectors = np.asarray(whole.vectors[offsets[0] : offsets[-1]], np.float32)
    return MultiVectors(vectors, offsets - offsets[0])


def _block(queries: MultiVectors, documents: MultiVectors) -> Embeddings:
    """(n, m) sums of some queries and documents."""
    sums = np.zeros((len(queries), len(documents)), np.float32)
    sums[:, np.diff(documents.offsets) == 0] = EMPTY_DOCUMENT
    full, asked = (np.flatnonzero(np.diff(side.offsets)) for side in (documents, queries))
    if len(full) and len(asked):
        # Empty texts take no vectors: a full one ends where the next full one starts.
        best = np.maximum.reduceat(queries.vectors @ documents.vectors.T, documents.offsets[full], axis=1)
        sums[np.ix_(asked, full)] = np.add.reduceat(best, queries.offsets[asked], axis=0)
    return sums


def _best(query: TokenVectors, document: TokenVectors) -> np.float32:
    if not len(document):
        return EMPTY_DOCUMENT
    if not len(query):
        return np.float32(0)
    products = np.asarray(query, np.float32) @ np.asarray(document, np.float32).T
    return np.float32(products.max(axis=1).sum(dtype=np.float32))


def finish_scores(scores: Embeddings, queries: MultiVectors, similarity: Similarity) -> Embeddings:
    """Sums → scores: "meanmaxsim" divides each query's by its tokens."""
    if similarity == "maxsim":
        return scores
    counts = np.maximum(np.diff(queries.offsets), 1).astype(np.float32)
    return (scores / counts[:, None]).astype(np.float32, copy=False)
