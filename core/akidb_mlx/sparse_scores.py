"""What is computed of sparse rows on the host: the greatest entries, similarities. Pure NumPy, float32."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from akidb_mlx import vectors
from akidb_mlx.errors import InputError
from akidb_mlx.sparse_rows import SparseRow, SparseRows

__all__ = ["check_active_dims", "decode", "finish_sparse", "greatest", "similarity", "similarity_pairwise"]

Numbers = NDArray[np.float32]
# Rows that are as wide as the words they have together, at a time.
_BLOCK = 256


def greatest(row: SparseRow, count: int) -> SparseRow:
    """The entries of the greatest absolute value, at most `count`; of equal ones those of the lower place."""
    indices, values = row
    if len(indices) <= count:
        return row
    kept = np.sort(np.argsort(-np.abs(values), kind="stable")[:count])
    return indices[kept], values[kept]


def check_active_dims(asked: int | None) -> None:
    """Refuse what is no number of entries."""
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int)):
        raise TypeError(f"max_active_dims must be a whole number, not {asked!r}")
    if asked is not None and asked < 1:
        raise InputError(f"max_active_dims is {asked}; it must be at least 1")


def decode(
    rows: SparseRows, token_of: Callable[[int], str | None], top_k: int | None
) -> list[list[tuple[str | None, float]]]:
    """(token, weight) of each row, heaviest first, of equal ones the lower place; at most `top_k`."""
    if not isinstance(rows, SparseRows):
        raise TypeError(f"decode takes SparseRows, not a {type(rows).__name__}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
        raise TypeError(f"top_k must be a whole number, not {top_k!r}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k is {top_k}; it must be at least 1")
    decoded = []
    for indices, values in rows:
        order = np.argsort(-values, kind="stable")[:top_k]
        decoded.append([(token_of(int(indices[place])), float(values[place])) for place in order])
    return decoded


def finish_sparse(rows: NDArray[np.object_], dimension: int, max_active_dims: int | None) -> SparseRows:
    """(n,) rows of the model, None where there is none, → what the caller gets."""
    if max_active_dims is None:
        return SparseRows.of(rows, dimension)
    return SparseRows.of([None if row is None else greatest(row, max_active_dims) for row in rows], dimension)


def similarity(a: SparseRows, b: SparseRows, kind: str) -> Numbers:
    """(n, m) scores of rows `a` against rows `b`: cosine, dot, or negative euclidean or manhattan distance."""
    _refuse_other_rows(a, b)
    scores = np.zeros((len(a), len(b)), np.float32)
    for left in range(0, len(a), _BLOCK):
        for right in range(0, len(b), _BLOCK):
            rows, others = a[left : left + _BLOCK], b[right : right + _BLOCK]
            words = np.union1d(rows.indices, others.indices)
            block = _KINDS[kind](_on(rows, words), _on(others, words))
            scores[left : left + _BLOCK, right : right + _BLOCK] = block
    return scores


def similarity_pairwise(a: SparseRows, b: SparseRows, kind: str) -> Numbers:
    """(n,) scores of row i of `a` against row i of `b`: the diagonal of `similarity`."""
    _refuse_other_rows(a, b)
    if len(a) != len(b):
        raise InputError(f"{len(a)} rows and {len(b)} rows are no pairs")
    scores = np.empty(len(a), np.float32)
    for place, (one, other) in enumerate(zip(a, b, strict=True)):
        words = np.union1d(one[0], other[0])
        scores[place] = vectors.similarity_pairwise(_row_on(one, words), _row_on(other, words), kind)[0]
    return scores


def _refuse_other_rows(a: SparseRows, b: SparseRows) -> None:
    if not isinstance(a, SparseRows) or not isinstance(b, SparseRows):
        wrong = b if isinstance(a, SparseRows) else a
        raise TypeError(f"similarity takes SparseRows, not a {type(wrong).__name__}")
    if a.dimension != b.dimension:
        raise InputError(f"similarity needs rows of one dimension, not of {a.dimension} and {b.dimension}")


def _row_on(row: SparseRow, words: NDArray[np.int32]) -> Numbers:
    """(words,) of these words alone."""
    dense = np.zeros(len(words), np.float32)
    dense[np.searchsorted(words, row[0])] = row[1]
    return dense


def _on(rows: SparseRows, words: NDArray[np.int32]) -> Numbers:
    """(n, words) of these words alone."""
    dense = np.zeros((len(rows), len(words)), np.float32)
    places = np.searchsorted(words, rows.indices)
    dense[np.repeat(np.arange(len(rows)), np.diff(rows.indptr)), places] = rows.values
    return dense


def _dot(a: Numbers, b: Numbers) -> Numbers:
    return a @ b.T


def _cosine(a: Numbers, b: Numbers) -> Numbers:
    def unit(x: Numbers) -> Numbers:
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), np.float32)

    return unit(a) @ unit(b).T


def _euclidean(a: Numbers, b: Numbers) -> Numbers:
    return -_distances(a, b, 2)


def _manhattan(a: Numbers, b: Numbers) -> Numbers:
    return -_distances(a, b, 1)


def _distances(a: Numbers, b: Numbers, order: int) -> Numbers:
    rows = [np.linalg.norm(b - row, ord=order, axis=1) for row in a]
    return np.asarray(rows, np.float32).reshape(len(a), len(b))


_KINDS: Mapping[str, Callable[[Numbers, Numbers], Numbers]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
