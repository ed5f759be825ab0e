"""Who sees whom: padding, windows, causal; whole, or as a rule for long texts."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.device_batch import KEPT_LENGTH, DeviceBatch, kept
from akidb_mlx.model.layers import cpu_kernels

__all__ = ["ByBlock", "LongMask", "Mask", "RowMask", "batch_mask", "is_by_block", "make_causal_mask", "make_mask"]


class ByBlock:
    """Who sees whom, or what is added to the scores, block by block: of texts so long that all of it would not fit.

    Of a lone short row in one block.
    """

    def block(self, start: int, stop: int) -> tuple[slice, mx.array | None]:
        """For the queries from `start` to `stop`: which keys they see at most, and the mask among them."""
        raise NotImplementedError


# Windows of so many pairs of tokens are kept.
_KEPT_PLACES = 1 << 12


@dataclass(frozen=True)
class LongMask(ByBlock):
    """Who sees whom."""

    length: int
    padding: mx.array | None = None
    """(rows, length), True on real tokens."""
    before: int | None = None
    """How far back a token sees; None for to the start."""
    after: int | None = None
    """How far ahead; None for to the end."""
    real: mx.array | None = None
    """(rows, length), where some tokens that are not seen are real: those do not see themselves either."""

    def block(self, start: int, stop: int) -> tuple[slice, mx.array | None]:
        """For the queries from `start` to `stop`: which keys they see at most, and who sees whom among them."""
        first = 0 if self.before is None else max(0, start - self.before)
        last = self.length if self.after is None else min(self.length, stop + self.after)
        seen = slice(first, last)
        padding = None if self.padding is None else self.padding[:, None, None, seen]
        if self.before is None and self.after is None:
            return seen, padding
        before = stop if self.before is None else self.before
        after = last if self.after is None else self.after
        if (stop - start) * (last - first) <= _KEPT_PLACES:
            near = kept(_near, start, stop, first, last, before, after)
        else:
            ahead = mx.arange(first, last)[None, :] - mx.arange(start, stop)[:, None]
            near = (ahead >= -before) & (ahead <= after)
        if padding is None:
            return seen, near
        itself = mx.arange(first, last)[None, :] == mx.arange(start, stop)[:, None]
        if self.real is not None:
            itself = itself & ~self.real[:, None, start:stop, None]
        return seen, (near & padding) | itself


def _near(start: int, stop: int, first: int, last: int, before: int, after: int) -> NDArray[np.bool_]:
    """(queries, keys): which of the keys from `first` to `last` those from `start` to `stop` may see."""
    ahead = np.arange(first, last) - np.arange(start, stop)[:, None]
    return (ahead >= -before) & (ahead <= after)


@dataclass(frozen=True)
class RowMask(ByBlock):
    """One row with padding: what fused attention takes of it is kept, so that a lone query computes nothing for it."""

    length: int
    count: int
    """Real tokens, which come first."""

    def block(self, start: int, stop: int) -> tuple[slice, mx.array | None]:
        """For any queries: all keys, and which of them are real, (1, 1, 1, length)."""
        return slice(None), kept(_real_keys, self.length, self.count)

    def added(self, dtype: mx.Dtype) -> mx.array:
        """What scores of this dtype have added for all keys, (1, 1, 1, length)."""
        return kept(_added, self.length, self.count, dtype)


def _real_keys(length: int, count: int) -> NDArray[np.bool_]:
    return (np.arange(length) < count)[None, None, None]


def _added(length: int, count: int, dtype: mx.Dtype) -> mx.array:
    return mx.array([[[[0.0] * count + [float(mx.finfo(dtype).min)] * (length - count)]]], dtype)


Mask = mx.array | ByBlock | str | None
"""Who sees whom: True where seen or added to the scores, of a long text, "causal", or None for everybody all."""


def is_by_block(length: int) -> bool:
    """Whether masks of `length` tokens are made block by block: those of a long text on the CPU."""
    return length > cpu_kernels.LONG and bool(mx.default_device() == mx.cpu)


def batch_mask(batch: DeviceBatch, window: int | None = None) -> Mask:
    """`make_mask` of a batch."""
    is_whole = window is None or window >= batch.length - 1
    if is_whole and batch.rows == 1 and batch.padded.attended is None and batch.length <= KEPT_LENGTH:
        return None if batch.is_padding is None else RowMask(batch.length, int(batch.padded.lengths[0]))
    return make_mask(batch.attention_mask, batch.length, window, batch.real)


def make_mask(
    attention_mask: mx.array | None, length: int, window: int | None = None, real: mx.array | None = None
) -> mx.array | LongMask | None:
    """Who sees whom, True where seen, broadcastable to (rows, heads, length, length); None for everybody all.

    `attention_mask` is (rows, length), True on tokens that are seen. With `window`, tokens at most that far apart see
    each other; padding sees itself, so that no row of the softmax is empty. `real` is `DeviceBatch.real`.
    """
    if window is None or window >= length - 1:
        return None if attention_mask is None else attention_mask[:, None, None, :]
    return _windowed(LongMask(length, attention_mask, window, window, real))


def make_causal_mask(
    length: int, window: int | None = None, attention_mask: mx.array | None = None, real: mx.array | None = None
) -> mx.array | LongMask:
    """As `make_mask`: tokens see themselves and what is before them, `window` tokens in all where it is given.

    Padding on the right needs no mask of its own, for no real token sees it: the last two only where there is a `real`.
    """
    before = None if window is None else window - 1
    return _windowed(LongMask(length, None if real is None else attention_mask, before, 0, real))


def _windowed(mask: LongMask) -> mx.array | LongMask:
    if is_by_block(mask.length):
        return mask
    whole = mask.block(0, mask.length)[1]
    assert whole is not None
    return whole
