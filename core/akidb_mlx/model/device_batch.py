"""A padded batch as arrays of the device: what a backbone and a head read of it."""

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["KEPT_LENGTH", "DeviceBatch", "kept"]


KEPT_LENGTH = 512
"""Tokens of a lone row whose masks are kept."""


@lru_cache(maxsize=1024)
def kept(make: Callable[..., mx.array | NDArray[Any]], *how: Any) -> mx.array:
    """What `make` gives for these sizes and dtypes, on the device: 16 KB at most, for many are kept.

    Nothing is left to compute in it: threads share it. `Network.let_go` drops all.
    """
    made = make(*how)
    return made if isinstance(made, mx.array) else mx.array(made)


def _seen(length: int, count: int) -> NDArray[np.bool_]:
    return np.arange(length)[None] < count


def _not_seen(length: int, count: int) -> NDArray[np.bool_]:
    return np.arange(length)[None] >= count


class DeviceBatch:
    """Rows of one forward pass.

    What depends on places alone is made by NumPy, for each operation of the device takes a lone query longer than that.
    Of one row it is kept too: on CUDA an array of the host's takes as long as some operations (`kept`).
    """

    def __init__(self, padded: PaddedBatch) -> None:
        """Take over a batch."""
        self.padded = padded
        self.rows, self.length = padded.input_ids.shape

    @classmethod
    def of(cls, padded: PaddedBatch) -> "DeviceBatch":
        """Hand a batch to the device."""
        return cls(padded)

    @cached_property
    def input_ids(self) -> mx.array:
        """(rows, length)."""
        return mx.array(self.padded.input_ids)

    @cached_property
    def token_ids(self) -> mx.array:
        """(rows × length,): the same, one row behind the other."""
        return mx.array(self.padded.input_ids.reshape(-1))

    @cached_property
    def lengths(self) -> mx.array:
        """(rows,) real tokens of each row."""
        return mx.array(self.padded.lengths)

    @cached_property
    def prompt_lengths(self) -> mx.array:
        """(rows,) leading tokens that pooling leaves out."""
        return mx.array(self.padded.prompt_lengths)

    @cached_property
    def attention_mask(self) -> mx.array | None:
        """(rows, length), True on tokens that are seen: the real ones, but for some that an encoding says.

        None where all are.
        """
        attended = self.padded.attended
        if attended is None:
            if self.is_padding is None:
                return None
            if self.rows == 1 and self.length <= KEPT_LENGTH:
                return kept(_seen, self.length, int(self.padded.lengths[0]))
            return mx.array(~self.is_padding)
        places = np.arange(self.length)
        return mx.array((places >= attended[:, :1]) & (places < attended[:, 1:]))

    @cached_property
    def real(self) -> mx.array | None:
        """(rows, length), True on real tokens, where some of them are not seen; None where the mask says it."""
        if self.padded.attended is None:
            return None
        return mx.array(np.arange(self.length) < self.padded.lengths[:, None])

    @cached_property
    def is_padding(self) -> NDArray[np.bool_] | None:
        """(rows, length) on the host, True on padding; None where there is none."""
        lengths = self.padded.lengths
        if self.rows == 1 and lengths[0] == self.length:
            return None
        return None if (lengths == self.length).all() else np.arange(self.length) >= lengths[:, None]

    @cached_property
    def not_real(self) -> mx.array | None:
        """`is_padding` on the device."""
        if self.is_padding is None:
            return None
        if self.rows == 1 and self.length <= KEPT_LENGTH:
            return kept(_not_seen, self.length, int(self.padded.lengths[0]))
        seen = self.attention_mask if self.padded.attended is None else self.real
        return None if seen is None else ~seen

    @cached_property
    def token_types(self) -> mx.array | None:
        """(rows, length), 1 on a second text and what follows it, else 0; None where all are 0."""
        if not self.padded.second_starts.any():
            return None
        starts = self.padded.second_starts[:, None]
        return mx.array(((np.arange(self.length) >= starts) & (starts > 0)).astype(np.int32))
