"""Hidden states without rows: (rows × length, width), as layers compute them but where rows are needed."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import cpu_kernels, cuda_kernels

__all__ = ["by_row", "flat", "is_flat", "states_by_row", "word_states"]


def is_flat(batch: DeviceBatch, width: int) -> bool:
    """Whether layers compute (rows × length, width), as all do but blocks of a long text on the CPU and our kernels.

    A product of matrices with (rows, length, width) is three operations for MLX, two of which change shapes.
    """
    in_blocks = batch.length > cpu_kernels.LONG and mx.default_device() == mx.cpu
    return not in_blocks and not cuda_kernels.may_serve(batch.rows * batch.length * width)


def word_states(table: nn.Module, batch: DeviceBatch, width: int) -> mx.array:
    """What a table has for the tokens, as layers compute it: see `is_flat`."""
    states: mx.array = table(batch.token_ids if is_flat(batch, width) else batch.input_ids)
    return states


def states_by_row(table: nn.Module, batch: DeviceBatch, width: int) -> mx.array:
    """`word_states`, but of several rows (rows, length, width), to add what their places share; `flat` comes after."""
    states: mx.array = table(batch.token_ids if batch.rows == 1 and is_flat(batch, width) else batch.input_ids)
    return states


def flat(x: mx.array, batch: DeviceBatch) -> mx.array:
    """(rows, length, width) as layers compute it: see `is_flat`."""
    return x.reshape(-1, x.shape[-1]) if x.ndim == 3 and is_flat(batch, x.shape[-1]) else x


def by_row(x: mx.array, rows: int) -> mx.array:
    """What comes out of layers as (rows, length, width)."""
    return x.reshape(rows, -1, x.shape[-1]) if x.ndim == 2 else x
