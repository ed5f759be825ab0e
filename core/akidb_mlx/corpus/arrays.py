"""Rows of numbers ↔ Arrow columns."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from akidb_mlx.errors import InputError
from akidb_mlx.multi_vectors import MultiVectors, TokenVectors
from akidb_mlx.sparse_rows import SparseRow, SparseRows
from akidb_mlx.vectors import Embeddings

__all__ = [
    "as_json_column",
    "make_scores",
    "make_sparse",
    "make_token_vectors",
    "make_vectors",
    "read_sparse",
    "read_token_vectors",
    "read_vectors",
]


def make_vectors(rows: Embeddings) -> pa.Array:
    """(n, dimension) rows as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def make_scores(rows: Embeddings) -> pa.Array:
    """(n, 1) rows as a column of numbers."""
    return pa.array(rows[:, 0])


def make_sparse(rows: Sequence[SparseRow], dimension: int) -> pa.Array:
    """Rows of entries as a column of structs: `indices`, ascending, and `values`."""
    sparse = SparseRows.of(rows, dimension)
    offsets = pa.array(sparse.indptr.astype(np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(numbers)) for numbers in (sparse.indices, sparse.values)]
    return pa.StructArray.from_arrays(lists, ["indices", "values"])


def make_token_vectors(rows: Sequence[TokenVectors], dimension: int, dtype: str) -> pa.Array:
    """(tokens, dimension) rows as a column of lists of fixed-size lists."""
    multi = MultiVectors.of(rows, dimension)
    vectors = make_vectors_of(multi.vectors.astype(dtype, copy=False), dimension)
    return pa.ListArray.from_arrays(pa.array(multi.offsets.astype(np.int32)), vectors)


def make_vectors_of(rows: TokenVectors, dimension: int) -> pa.Array:
    """(n, dimension) rows of any float type, also none, as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dimension)


def read_sparse(column: pa.ChunkedArray, dimension: int) -> SparseRows:
    """A column of `indices` and `values` as rows; a row without them (null) has no entries."""
    parts = [SparseRows(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), dimension)]
    for chunk in column.chunks:
        indices, values = chunk.flatten()  # where the struct is null, both are
        numbers = [column.flatten().to_numpy(zero_copy_only=False) for column in (indices, values)]
        parts.append(SparseRows(_offsets(indices), numbers[0], numbers[1], dimension))
    return SparseRows.concatenate(parts)


def read_token_vectors(column: pa.ChunkedArray) -> MultiVectors:
    """A column of lists of fixed-size lists as rows; a row without them (null) has no vectors."""
    width = column.type.value_type.list_size
    parts = []
    for chunk in column.chunks:
        flat = chunk.flatten()
        vectors = flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        parts.append(MultiVectors(vectors, _offsets(chunk)))
    if not parts:
        return MultiVectors.of([], width)
    return MultiVectors.concatenate(parts)


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


def as_json_column(column: pa.ChunkedArray) -> Iterator[str]:
    """Numbers, lists of numbers and structs of them as JSON: the shortest digits that give the same number again."""
    for chunk in column.chunks:
        yield from _json_texts(chunk).to_pylist()


def _json_texts(array: pa.Array) -> pa.Array:
    type_ = array.type
    if pa.types.is_struct(type_):
        texts = [_json_texts(field) for field in array.flatten()]
        named = [pc.binary_join_element_wise(f'"{f.name}": ', text, "") for f, text in zip(type_, texts, strict=True)]
        return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*named, ", "), "}", "")
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        texts = _json_texts(array.flatten())
        if pa.types.is_list(type_):
            offsets = _offsets(array)
        else:
            offsets = np.arange(len(array) + 1, dtype=np.int64) * type_.list_size
        joined = pc.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets), texts), ",")
        return pc.binary_join_element_wise("[", joined, "]", "")
    # Of float16 Arrow has no digits; float32's are exact.
    numbers = array.cast(pa.float32()) if pa.types.is_floating(type_) else array
    return numbers.cast(pa.string())


def _offsets(lists: pa.ListArray) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Where each list begins, and the last ends, in what `flatten` gives."""
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
