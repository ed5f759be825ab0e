"""What every head is: hidden states in, one row of float32 out."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.device_batch import DeviceBatch

__all__ = ["Head"]


class Head(nn.Module):
    """Makes rows of hidden states, in float32 whatever the backbone's dtype."""

    width: int
    """Numbers of a row."""

    @property
    def reads_first(self) -> bool:
        """Whether it reads each row's first token alone."""
        return False

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, width) float32."""
        raise NotImplementedError
