"""Several heads over one backbone's hidden states: one pass for all of them."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.host_rows import RaggedRows, Rows
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["Joint"]


class Joint(Head):
    """Heads by name; a row is a dictionary of theirs. They come and go while no batch computes."""

    width = 0
    flagged = True

    def __init__(self) -> None:
        """No head yet."""
        super().__init__()
        self.heads: dict[str, Head] = {}
        self._arrays: dict[str, int] = {}

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> tuple[mx.array, ...]:
        """(rows, length, backbone's width) → the arrays of all heads, one after another."""
        arrays: list[mx.array] = []
        for name, head in self.heads.items():
            computed = head(hidden_states, batch)
            parts = computed if isinstance(computed, tuple) else (computed,)
            self._arrays[name] = len(parts)
            arrays += parts
        return tuple(arrays)

    def blank(self, count: int) -> Rows:
        """Rows of inputs that have none."""
        return RaggedRows().blank(count)

    def to_host(self, arrays: Sequence[NDArray[Any]], batch: PaddedBatch, count: int) -> tuple[Rows, NDArray[np.bool_]]:
        """The first `count` rows of a batch, and (count,) which of them are finite."""
        rows = self.blank(count)
        for place in range(count):
            rows[place] = {}
        finite, start = np.ones(count, np.bool_), 0
        for name, head in self.heads.items():
            end = start + self._arrays[name]
            own, is_finite = head.to_host(arrays[start:end], batch, count)
            finite &= is_finite
            for row, numbers in zip(rows, own, strict=True):
                # Not a view of the device's memory, which the next batch takes.
                row[name] = numbers.copy() if own.dtype != object else numbers
            start = end
        return rows, finite
