"""Rows of numbers ↔ Arrow columns."""

import numpy as np
import pyarrow as pa

from akidb_mlx.errors import InputError
from akidb_mlx.vectors import Embeddings

__all__ = ["make_scores", "make_vectors", "read_vectors"]


def make_vectors(rows: Embeddings) -> pa.Array:
    """(n, dimension) rows as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def make_scores(rows: Embeddings) -> pa.Array:
    """(n, 1) rows as a column of numbers."""
    return pa.array(rows[:, 0])


def read_vectors(column: pa.ChunkedArray, first: int = 0) -> Embeddings:
    """A column of fixed-size lists as (n, dimension) rows; a row without a vector (null) is NaN.

    `first`: the number of the column's first row, for messages.

    Raises:
        InputError: a row has no vector, and numbers of its type cannot be NaN.
    """
    width = column.type.list_size
    chunks = []
    for chunk in column.chunks:
        chunks.append(_read_chunk(chunk, width, first))
        first += len(chunk)
    return np.concatenate(chunks) if chunks else np.empty((0, width), column.type.value_type.to_pandas_dtype())


def _read_chunk(chunk: pa.FixedSizeListArray, width: int, first: int) -> Embeddings:
    if not chunk.null_count:
        return _flat(chunk, width)
    missing = chunk.is_null().to_numpy(zero_copy_only=False)
    dtype = np.dtype(chunk.type.value_type.to_pandas_dtype())
    if dtype.kind != "f":
        raise InputError(f"row {first + missing.argmax()} has no vector (null), and {dtype} has no NaN to say so")
    rows = np.full((len(chunk), width), np.nan, dtype)
    rows[~missing] = _flat(chunk, width)
    return rows


def _flat(chunk: pa.FixedSizeListArray, width: int) -> Embeddings:
    """The rows that are not null."""
    rows: Embeddings = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return rows
