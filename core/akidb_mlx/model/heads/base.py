"""What every head is: hidden states in, one row per input out."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.host_rows import DenseRows, Rows
from akidb_mlx.model.host_states import HostStates
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["Computed", "Head", "OnDevice"]

OnDevice = mx.array | tuple[mx.array, ...]
"""What a head gives there; the rows are the first axis of each array."""
Computed = OnDevice | NDArray[np.float32]
"""What a batch gives, on the device or computed on the host; the rows are the first axis of each array."""


class Head(nn.Module):
    """Makes rows of hidden states, in float32 whatever the backbone's dtype (but see `settle`).

    Rows are (n, width) arrays; a head with rows of another form says how its arrays become those on the host
    (`host_rows.RowForm`).
    """

    width: int
    """Numbers of a row."""
    flagged: bool = False
    """Whether a batch's last array says which rows were computed (`host_rows.RowForm`)."""
    max_rows: int | None = None
    """Rows that a batch may have, where what comes out of the head would take more memory than all else."""

    @property
    def reads_first(self) -> bool:
        """Whether it reads each row's first token alone."""
        return False

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> OnDevice:
        """(rows, length, backbone's width) → (rows, width) float32, or what `to_host` takes."""
        raise NotImplementedError

    def marked(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array | None:
        """The rows, infinite where a real token's hidden state is all zero, where one pass gives both; None: not here.

        Never of a head that is `flagged`.
        """
        return None

    def pool_on_host(self, states: HostStates, batch: PaddedBatch) -> Computed | None:
        """What a call gives, of states that are on the host; None where they are to be handed to the device."""
        return None

    def settle(self, dtype: mx.Dtype) -> None:
        """Once, with its weights: the backbone computes in `dtype`. Heads stay in float32 where it is not much."""

    def activation_bytes(self, rows: int, length: int) -> int:
        """Bytes that a batch of `rows` × `length` tokens takes beside the backbone's, where that is much."""
        return 0

    def blank(self, count: int) -> Rows:
        """Rows of inputs that have none."""
        return DenseRows(self.width).blank(count)

    def to_host(self, arrays: Sequence[NDArray[Any]], batch: PaddedBatch, count: int) -> tuple[Rows, NDArray[np.bool_]]:
        """The first `count` rows of a batch, and (count,) which of them are finite."""
        return DenseRows(self.width).to_host(arrays, batch, count)
