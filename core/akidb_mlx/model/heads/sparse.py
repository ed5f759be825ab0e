"""Heads whose rows are as wide as a vocabulary and nearly all zero: only the rest leaves the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.host_rows import RaggedRows, Rows
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["SparseHead"]

# Bytes of a batch's rows as they leave the head.
_MOST_BYTES = 128 << 20


class SparseHead(Head):
    """Gives (rows, width) float32 on the device; a row on the host is `sparse_rows.SparseRow`."""

    flagged = True

    def __init__(self, width: int) -> None:
        """Rows of `width` numbers."""
        super().__init__()
        self.width = width
        self.max_rows = max(1, _MOST_BYTES // (4 * width))

    def blank(self, count: int) -> Rows:
        """Rows of inputs that have none."""
        return RaggedRows().blank(count)

    def to_host(self, arrays: Sequence[NDArray[Any]], batch: PaddedBatch, count: int) -> tuple[Rows, NDArray[np.bool_]]:
        """(count,) objects, (indices int32, ascending, and values float32) of what is not zero; which are finite."""
        rows, finite = np.empty(count, object), np.empty(count, np.bool_)
        for place, row in enumerate(arrays[0][:count]):
            indices = np.flatnonzero(row != 0)
            values = row[indices]  # a copy: the batch's memory is not held
            rows[place] = indices.astype(np.int32), values
            finite[place] = np.isfinite(values).all()
        return rows, finite
