"""A weight per token, then the greatest of equal tokens: BGE-M3's sparse vectors."""

from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.host_rows import RaggedRows, Rows
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["TokenWeights"]


class TokenWeights(Head):
    """relu(linear(hidden state)) of each token; a row has the greatest weight of each token id (Chen et al. 2024, 3.2).

    Host rows are (indices, values), by ascending index, without zeros and without the tokens that are left out.
    """

    flagged = True

    def __init__(self, width: int, vocabulary: int, left_out: Collection[int]) -> None:
        """Take hidden states of `width` channels; `left_out` are ids that have no weight."""
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.width = vocabulary
        self._left_out = np.array(sorted(left_out), np.int32)

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, length) float32."""
        return nn.relu(self.linear(hidden_states.astype(mx.float32)))[:, :, 0]

    def blank(self, count: int) -> Rows:
        """Rows of inputs that have none."""
        return RaggedRows().blank(count)

    def to_host(self, arrays: Sequence[NDArray[Any]], batch: PaddedBatch, count: int) -> tuple[Rows, NDArray[np.bool_]]:
        """(indices, values) of the first `count` rows, and (count,) which of them are finite."""
        rows, finite = self.blank(count), np.ones(count, np.bool_)
        for place, length in enumerate(batch.lengths[:count].tolist()):
            ids, weights = batch.input_ids[place, :length], arrays[0][place, :length]
            finite[place] = np.isfinite(weights).all()
            counts = (weights > 0) & ~np.isin(ids, self._left_out)
            indices, of = np.unique(ids[counts], return_inverse=True)
            values = np.zeros(len(indices), np.float32)
            np.maximum.at(values, of, weights[counts])
            rows[place] = indices, values
        return rows, finite
