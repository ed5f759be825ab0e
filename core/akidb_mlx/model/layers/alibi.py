"""ALiBi (Press et al. 2022, arXiv:2108.12409), both ways: scores fall with the distance, in each head by its slope."""

import math

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.attention import query_block
from akidb_mlx.model.layers.relative import LongBias

__all__ = ["alibi_bias", "alibi_numbers", "alibi_slopes"]


def alibi_slopes(heads: int) -> NDArray[np.float32]:
    """(heads,): 2^(−8 i / heads) for i from 1, where they are a power of two.

    Otherwise those of the power of two below, then every second one of the next power's.
    """
    below = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8 * i / below) for i in range(1, below + 1)]
    between = [2.0 ** (-4 * i / below) for i in range(1, 2 * below + 1, 2)]
    return np.array((slopes + between)[:heads], np.float32)


def alibi_bias(slopes: NDArray[np.float32], length: int, attention_mask: mx.array | None, dtype: mx.Dtype) -> LongBias:
    """What is added to the scores of `length` tokens: −slope × distance, and -inf for keys that are not seen.

    It is made for the queries of a block at a time. `attention_mask` is (rows, length), True on tokens that are seen,
    or None for all.
    """
    distances = np.abs(np.arange(1 - length, length, dtype=np.float32))
    return LongBias(length, mx.array(-slopes[:, None] * distances).astype(dtype), attention_mask)


def alibi_numbers(rows: int, length: int, heads: int, *, in_blocks: bool) -> int:
    """How many numbers it takes for `rows` rows; of a block's there are two arrays at a time."""
    if in_blocks:
        return 2 * max(cpu_kernels.BLOCK_BYTES // 4, rows * heads * length)
    return 2 * (rows + 1) * heads * length * query_block(rows, heads, length)
