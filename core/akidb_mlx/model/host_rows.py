"""Rows on the host, in whatever form a head gives them. No MLX here."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["DenseRows", "RaggedRows", "RowForm", "Rows"]

Rows = NDArray[Any]
"""(n, width) float32, or (n,) objects where each row has a size of its own."""


class RowForm(Protocol):
    """How the device's arrays of one batch become rows."""

    flagged: bool
    """Whether the last array says which rows were computed, rather than infinite numbers: for wide or ragged rows."""

    def blank(self, count: int) -> Rows:
        """Rows of inputs that have none."""

    def to_host(self, arrays: Sequence[NDArray[Any]], batch: PaddedBatch, count: int) -> tuple[Rows, NDArray[np.bool_]]:
        """The first `count` rows of a batch, and (count,) which of them are finite; `arrays` may be the device's."""


class DenseRows:
    """Every row has the same numbers: NaN where there is none."""

    flagged = False

    def __init__(self, width: int) -> None:
        """Rows of `width` numbers."""
        self.width = width

    def blank(self, count: int) -> Rows:
        """Rows of inputs that have none."""
        return np.full((count, self.width), np.nan, np.float32)

    def to_host(self, arrays: Sequence[NDArray[Any]], batch: PaddedBatch, count: int) -> tuple[Rows, NDArray[np.bool_]]:
        """The first `count` rows of a batch, and (count,) which of them are finite."""
        rows = arrays[0][:count]
        return rows, np.isfinite(rows).all(axis=1)


class RaggedRows:
    """A row is an object: None where there is none. A head adds `to_host`, whose rows must be copies."""

    flagged = True

    def blank(self, count: int) -> Rows:
        """Rows of inputs that have none."""
        return np.full(count, None, object)
