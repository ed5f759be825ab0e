"""Pooling, then Dense layers."""

from collections.abc import Sequence

import mlx.core as mx

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.base import Computed, Head
from akidb_mlx.model.heads.dense import DenseLayer
from akidb_mlx.model.heads.pooling import pool, pool_on_host
from akidb_mlx.model.host_states import HostStates
from akidb_mlx.model.layers import cuda_kernels
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["Pooled"]


class Pooled(Head):
    """Pooling modes side by side, then Dense layers in turn."""

    def __init__(
        self, width: int, pooling: Sequence[str], dense: Sequence[DenseLayer], *, whole_numbers: bool = False
    ) -> None:
        """Take hidden states of `width` channels; `whole_numbers` makes round(127 · tanh) of a row in the end."""
        super().__init__()
        width *= len(pooling)
        for layer in dense:
            if layer.in_features != width:
                raise CheckpointError(f"a Dense layer takes {layer.in_features} numbers and gets {width}")
            width = layer.out_features
        self.width = width
        self.dense = list(dense)
        self._pooling = tuple(pooling)
        self._whole_numbers = whole_numbers

    def marked(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array | None:
        """The mean, where nothing comes after it, on CUDA."""
        plain = self._pooling == ("mean",) and not self.dense and not self._whole_numbers and batch.real is None
        if not plain or not cuda_kernels.serves(hidden_states, widest=cuda_kernels.WIDEST_POOL):
            return None
        return cuda_kernels.mean_pool(hidden_states, batch.lengths, batch.prompt_lengths)

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, width) float32."""
        return self._after(pool(hidden_states, batch.padded.lengths, batch.padded.prompt_lengths, self._pooling))

    def pool_on_host(self, states: HostStates, batch: PaddedBatch) -> Computed | None:
        """The same, where all modes are computed there."""
        pooled = pool_on_host(states, batch.prompt_lengths, self._pooling)
        if pooled is None or not (self.dense or self._whole_numbers):
            return pooled
        return self._after(mx.array(pooled))

    def _after(self, x: mx.array) -> mx.array:
        for layer in self.dense:
            x = layer(x)
        return mx.round(127 * mx.tanh(x)) if self._whole_numbers else x  # half to even, as torch
