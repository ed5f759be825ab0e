"""T5's relative positions (Raffel et al. 2019, arXiv:1910.10683): a number per head for how far a key is away."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.device_batch import kept
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.masks import ByBlock, is_by_block

__all__ = ["LongBias", "bias_numbers", "make_bias", "t5_buckets"]


# Of so many tokens the buckets of all pairs are kept, for some operations of the device less.
_KEPT_TOKENS = 64


@dataclass(frozen=True)
class LongBias(ByBlock):
    """What is added to the scores: by the distance, and -inf for keys that are not seen."""

    length: int
    values: mx.array
    """(heads, 2 × length − 1), for a key's place less the query's from 1 − length to length − 1."""
    padding: mx.array | None = None
    """(rows, length), True on tokens that are seen."""

    def block(self, start: int, stop: int) -> tuple[slice, mx.array | None]:
        """For the queries from `start` to `stop`: all keys, and (1 or rows, heads, stop − start, length)."""
        places = mx.arange(self.length)[None, :] - mx.arange(start, stop)[:, None] + (self.length - 1)
        return slice(None), _seen(mx.take(self.values, places, axis=1)[None], self.padding)


def _seen(bias: mx.array, padding: mx.array | None) -> mx.array:
    """With -inf for keys that are not seen; every row keeps real tokens, so that this leaves no empty row."""
    if padding is None:
        return bias
    return mx.where(padding[:, None, None, :], bias, mx.array(-mx.inf, bias.dtype))


def make_bias(
    table: nn.Module, length: int, buckets: int, farthest: int, attention_mask: mx.array | None
) -> mx.array | LongBias:
    """What `table`, a row of numbers by head for each bucket, adds to the scores of `length` tokens.

    `attention_mask` is (rows, length), True on tokens that are seen, or None for all.
    """
    if length <= _KEPT_TOKENS:
        rows: mx.array = table(kept(_buckets_of_pairs, length, buckets, farthest))
        # Contiguous: fused attention would copy what is not, for all rows and in each layer.
        return _seen(mx.contiguous(rows.transpose(2, 0, 1))[None], attention_mask)
    places = t5_buckets(np.arange(1 - length, length), buckets, farthest)
    bias = LongBias(length, table(mx.array(places)).T, attention_mask)
    if is_by_block(length):
        return bias
    whole = bias.block(0, length)[1]
    assert whole is not None
    return whole


def _buckets_of_pairs(length: int, buckets: int, farthest: int) -> NDArray[np.int32]:
    """(queries, keys)."""
    return t5_buckets(np.arange(length) - np.arange(length)[:, None], buckets, farthest)


def bias_numbers(rows: int, length: int, heads: int, *, in_blocks: bool) -> int:
    """How many numbers `make_bias` keeps; of a block's there are two arrays at a time."""
    if in_blocks:
        return 2 * max(cpu_kernels.BLOCK_BYTES // 4, rows * heads * length)
    return (rows + 1) * heads * length * length


def t5_buckets(distances: NDArray[Any], buckets: int, farthest: int) -> NDArray[np.int32]:
    """The bucket of each distance (a key's place less the query's): half of them for each side.

    Half of a side's are exact, the rest logarithmic up to `farthest`.
    """
    half = buckets // 2
    exact = half // 2
    far = np.abs(distances)
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / exact) / np.float32(np.log(farthest / exact))
    logarithmic = np.minimum(exact + (ratio * (half - exact)).astype(np.int32), half - 1)
    return (np.where(far < exact, far, logarithmic) + np.where(distances > 0, half, 0)).astype(np.int32)
