"""A row per token: Dense layers, then unit length; the head of late interaction."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.heads.dense import DenseLayer
from akidb_mlx.model.host_rows import RaggedRows, Rows
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["TokenVectors"]

_LEAST = 1e-12  # torch's normalize divides by no less


class TokenVectors(RaggedRows, Head):
    """Vectors of all tokens; on the host those that count, (tokens, width) float32 for each text."""

    def __init__(self, width: int, dense: Sequence[DenseLayer], *, normalize: bool, first: int = 0) -> None:
        """Take hidden states of `width` channels; tokens before `first` give no row."""
        super().__init__()
        self._per_token = width
        for layer in dense:
            if layer.in_features != width:
                raise CheckpointError(f"a Dense layer takes {layer.in_features} numbers and gets {width}")
            width = layer.out_features
            self._per_token += 2 * width
        self.width = width
        self._per_token += width if normalize else 0
        self.dense = list(dense)
        self._normalize, self._first = normalize, first

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, length, width) float32, padding's too."""
        x = hidden_states.astype(mx.float32)
        for layer in self.dense:
            x = layer(x)
        if self._normalize:
            x = x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), _LEAST)
        return x

    def activation_bytes(self, rows: int, length: int) -> int:
        """Bytes of the vectors of all tokens, and of what they are made of."""
        return 4 * self._per_token * rows * length

    def to_host(self, arrays: Sequence[NDArray[Any]], batch: PaddedBatch, count: int) -> tuple[Rows, NDArray[np.bool_]]:
        """The first `count` texts' vectors of tokens that count, as copies, and (count,) which texts are finite."""
        rows, finite = self.blank(count), np.empty(count, np.bool_)
        for place in range(count):
            tokens = arrays[0][place, : batch.lengths[place]]
            kept = batch.kept[place] if batch.kept else None
            # A copy: the batch may go.
            rows[place] = np.array(tokens[self._first :] if kept is None else tokens[kept], np.float32)
            finite[place] = np.isfinite(tokens).all()
        return rows, finite
