"""Sparse rows on the host: the entries that are not zero, row after row (CSR). Pure NumPy."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import InputError

__all__ = ["SparseRow", "SparseRows"]

SparseRow = tuple[NDArray[np.int32], NDArray[np.float32]]
"""(entries,) positions in ascending order, and their (entries,) values."""


@dataclass(frozen=True, eq=False)
class SparseRows:
    """(n, dimension) rows of which only what is not zero is kept; `scipy.sparse.csr_array` takes the same three arrays.

    Row i has the entries from `indptr[i]` up to `indptr[i + 1]`.
    """

    indptr: NDArray[np.int64]
    """(n + 1,)."""
    indices: NDArray[np.int32]
    """(entries,) positions, ascending in each row."""
    values: NDArray[np.float32]
    """(entries,)."""
    dimension: int
    """Width of the rows: the vocabulary's size."""

    @classmethod
    def of(cls, rows: Iterable[SparseRow | None], dimension: int) -> Self:
        """Rows one by one; None is one without entries.

        Examples:
            >>> rows = SparseRows.of([(np.array([1, 4]), np.array([0.5, 2.0])), None], dimension=6)
            >>> len(rows), rows.dimension
            (2, 6)
        """
        kept = [(np.empty(0, np.int32), np.empty(0, np.float32)) if row is None else row for row in rows]
        indptr = np.zeros(len(kept) + 1, np.int64)
        np.cumsum([len(indices) for indices, _ in kept], out=indptr[1:])
        indices = np.concatenate([indices for indices, _ in kept]) if kept else np.empty(0)
        values = np.concatenate([values for _, values in kept]) if kept else np.empty(0)
        return cls(indptr, indices.astype(np.int32, copy=False), values.astype(np.float32, copy=False), dimension)

    @classmethod
    def concatenate(cls, parts: Sequence["SparseRows"]) -> Self:
        """The rows of all parts, which have one dimension, in turn.

        Examples:
            >>> rows = SparseRows.of([(np.array([1]), np.array([0.5]))], dimension=6)
            >>> len(SparseRows.concatenate([rows, rows]))
            2
        """
        if len({part.dimension for part in parts}) != 1:
            raise InputError(f"rows of one dimension are needed, not of {sorted({part.dimension for part in parts})}")
        counts = np.concatenate([np.diff(part.indptr) for part in parts])
        indptr = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        indices = np.concatenate([part.indices for part in parts])
        return cls(indptr, indices, np.concatenate([part.values for part in parts]), parts[0].dimension)

    def __len__(self) -> int:
        """Its rows."""
        return len(self.indptr) - 1

    @overload
    def __getitem__(self, place: int) -> SparseRow: ...
    @overload
    def __getitem__(self, place: slice) -> "SparseRows": ...
    def __getitem__(self, place: int | slice) -> "SparseRow | SparseRows":
        """(indices, values) of one row: views; of a slice the rows."""
        if isinstance(place, slice):
            return SparseRows.of([self[row] for row in range(*place.indices(len(self)))], self.dimension)
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        start, end = self.indptr[place % len(self)], self.indptr[place % len(self) + 1]
        return self.indices[start:end], self.values[start:end]

    def __iter__(self) -> Iterator[SparseRow]:
        return (self[place] for place in range(len(self)))

    def to_dicts(self) -> list[dict[int, float]]:
        """Position → value of each row, plain numbers, as Milvus and LlamaIndex want them.

        Examples:
            >>> SparseRows.of([(np.array([1, 4]), np.array([0.5, 2.0]))], dimension=6).to_dicts()
            [{1: 0.5, 4: 2.0}]
        """
        return [dict(zip(indices.tolist(), values.tolist(), strict=True)) for indices, values in self]

    def to_dense(self) -> NDArray[np.float32]:
        """(n, dimension) float32: 122 kB per row at 30,522 words.

        Examples:
            >>> SparseRows.of([(np.array([1, 4]), np.array([0.5, 2.0]))], dimension=6).to_dense()
            array([[0. , 0.5, 0. , 0. , 2. , 0. ]], dtype=float32)
        """
        dense = np.zeros((len(self), self.dimension), np.float32)
        dense[np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.indices] = self.values
        return dense
