"""Rows of several vectors each, one per token, on the host. Pure NumPy."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import InputError

__all__ = ["MultiVectors", "TokenVectors"]

TokenVectors = NDArray[np.floating]
"""(tokens, dimension) of one text."""


@dataclass(frozen=True, eq=False)
class MultiVectors:
    """The vectors of n texts below one another; text i has those from `offsets[i]` up to `offsets[i + 1]`."""

    vectors: TokenVectors
    """(all tokens, dimension) float32, or float16 where that was asked for."""
    offsets: NDArray[np.int64]
    """(n + 1,)."""

    @classmethod
    def of(cls, rows: Iterable[TokenVectors | None], dimension: int) -> Self:
        """Texts one by one, (tokens, dimension) each; None is one without vectors.

        Examples:
            >>> rows = MultiVectors.of([np.ones((3, 8)), None], dimension=8)
            >>> len(rows), rows[0].shape
            (2, (3, 8))
        """
        blank = np.empty((0, dimension), np.float32)
        kept = [blank if row is None else row for row in rows]
        offsets = np.zeros(len(kept) + 1, np.int64)
        np.cumsum([len(row) for row in kept], out=offsets[1:])
        return cls(np.concatenate(kept) if kept else blank, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence["MultiVectors"]) -> Self:
        """The texts of all parts, which have one dimension, in turn.

        Examples:
            >>> rows = MultiVectors.of([np.ones((3, 8))], dimension=8)
            >>> len(MultiVectors.concatenate([rows, rows]))
            2
        """
        if len({part.dimension for part in parts}) != 1:
            raise InputError(f"rows of one dimension are needed, not of {sorted({part.dimension for part in parts})}")
        offsets = np.zeros(sum(map(len, parts)) + 1, np.int64)
        np.cumsum(np.concatenate([np.diff(part.offsets) for part in parts]), out=offsets[1:])
        return cls(np.concatenate([part.vectors for part in parts]), offsets)

    @property
    def dimension(self) -> int:
        """Width of the vectors.

        Examples:
            >>> MultiVectors.of([np.ones((3, 8))], dimension=8).dimension
            8
        """
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        """Its texts."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> TokenVectors: ...
    @overload
    def __getitem__(self, place: slice) -> "MultiVectors": ...
    def __getitem__(self, place: int | slice) -> "TokenVectors | MultiVectors":
        """(tokens, dimension) of one text: a view; of a slice the texts."""
        if isinstance(place, slice):
            return MultiVectors.of([self[row] for row in range(*place.indices(len(self)))], self.dimension)
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return self.vectors[self.offsets[place % len(self)] : self.offsets[place % len(self) + 1]]

    def __iter__(self) -> Iterator[TokenVectors]:
        return (self[place] for place in range(len(self)))
