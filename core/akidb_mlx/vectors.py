"""Rows on the host: truncate, normalise, compare, validate. Pure NumPy, float32."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from akidb_mlx.errors import InputError

__all__ = ["Embeddings", "finish", "similarity", "similarity_pairwise", "validate"]

Embeddings = NDArray[np.float32]
_EPSILON = 1e-12  # as torch.nn.functional.normalize


def finish(
    rows: Embeddings, dimension: int, *, normalize: bool, layer_norm: bool = False, normalize_first: bool = False
) -> Embeddings:
    """Cut (n, width) rows to `dimension`, then scale them to unit length if asked: in this order.

    `layer_norm` centres and scales each row before a real cut (nomic-embed v1.5's recipe, eps 1e-5);
    `normalize_first` scales whole rows, so that cut ones are shorter.
    """
    if normalize_first:
        rows = _to_unit_length(rows)
    if dimension < rows.shape[1]:
        if layer_norm:
            centred = rows - rows.mean(axis=1, keepdims=True)
            rows = centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + 1e-5)
        rows = rows[:, :dimension]
    if normalize:
        rows = _to_unit_length(rows)
    return np.ascontiguousarray(rows, dtype=np.float32)


def _to_unit_length(rows: Embeddings) -> Embeddings:
    # As np.linalg.norm computes it, which takes three times as long for a row.
    norms = np.sqrt(np.add.reduce(np.square(rows), axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(norms, _EPSILON), dtype=np.float32)


def similarity(a: ArrayLike, b: ArrayLike, kind: str = "cosine") -> Embeddings:
    """(n, m) scores of (n, d) against (m, d) rows: cosine, dot, or negative euclidean or manhattan distance."""
    left, right = _two_sides(a, b)
    if kind == "cosine":
        return finish(left, left.shape[1], normalize=True) @ finish(right, right.shape[1], normalize=True).T
    if kind == "dot":
        return left @ right.T
    order = 2 if kind == "euclidean" else 1
    scores = [-np.linalg.norm(right - row, ord=order, axis=1) for row in left]
    return np.asarray(scores, dtype=np.float32).reshape(len(left), len(right))


def similarity_pairwise(a: ArrayLike, b: ArrayLike, kind: str = "cosine") -> Embeddings:
    """(n,) scores of row i of `a` against row i of `b`, both (n, d): the diagonal of `similarity`."""
    left, right = _two_sides(a, b)
    if len(left) != len(right):
        raise InputError(f"{len(left)} rows and {len(right)} rows are no pairs")
    if kind == "cosine":
        left, right = _to_unit_length(left), _to_unit_length(right)
    if kind in ("cosine", "dot"):
        return np.asarray(np.einsum("nd,nd->n", left, right), np.float32)
    return np.asarray(-np.linalg.norm(left - right, ord=2 if kind == "euclidean" else 1, axis=1), np.float32)


def _two_sides(a: ArrayLike, b: ArrayLike) -> tuple[Embeddings, Embeddings]:
    """Rows that can be compared, (n, d) and (m, d); a lone vector is one row."""
    left = np.atleast_2d(np.asarray(a, dtype=np.float32))
    right = np.atleast_2d(np.asarray(b, dtype=np.float32))
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(f"similarity needs rows of one dimension, not shapes {left.shape} and {right.shape}")
    return left, right


def validate(vectors: ArrayLike, dimension: int, *, unit_length: bool = False) -> Embeddings:
    """Vectors from elsewhere as an (n, dimension) float32 array; InputError names the first bad row.

    With `unit_length`, a row's norm may differ from 1 by 1e-3 at most.
    """
    try:
        array = np.asarray(vectors)
        if array.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError):
        raise InputError(_first_bad_row(vectors, dimension)) from None
    if array.size == 0 and array.ndim <= 2 and len(array) == 0:
        return np.empty((0, dimension), np.float32)
    if array.ndim != 2:
        raise InputError(f"vectors must be rows of numbers, (n, {dimension}); this has shape {array.shape}")
    if array.shape[1] != dimension:
        raise InputError(f"row 0 has {array.shape[1]} numbers; the model's dimension is {dimension}")
    with np.errstate(over="ignore"):  # too large for float32: reported below as not finite
        rows = array.astype(np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InputError(f"row {int(np.argmin(finite))} holds NaN or infinity, or a number beyond float32")
    if unit_length:
        norms = np.linalg.norm(rows, axis=1)
        off = np.abs(norms - 1) > 1e-3
        if off.any():
            row = int(np.argmax(off))
            raise InputError(f"row {row} has length {norms[row]:.6g}, not 1; normalise it or leave unit_length out")
    return rows


def _first_bad_row(vectors: ArrayLike, dimension: int) -> str:
    """Say which row keeps a sequence from being a rectangle of numbers."""
    try:
        rows = list(vectors)  # type: ignore[arg-type]
    except TypeError:
        return f"vectors must be rows of numbers, (n, {dimension}), not a {type(vectors).__name__}"
    for index, row in enumerate(rows):
        try:
            array = np.asarray(row)
        except ValueError:
            return f"row {index} is not a sequence of numbers"
        if array.dtype.kind not in "fiu":
            return f"row {index} is not a sequence of numbers ({array.dtype})"
        if array.shape != (dimension,):
            return f"row {index} has shape {array.shape}; the model's dimension is {dimension}"
    return f"vectors must be rows of numbers, (n, {dimension})"
