"""A backbone whose hidden states are computed by NumPy and the BLAS: token ids in, states without padding out."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.host_states import HostStates, spans_of
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.host_kernels import Array, HostNorm
from akidb_mlx.model.layers.host_layers import HostLayers
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["HostEncoder", "HostTables", "by_mlx"]

Real = NDArray[np.bool_] | None
"""(rows, length), True on tokens; None where there is no padding."""
Some = TypeVar("Some", bound=np.generic)


class Embed(Protocol):
    """What comes before the layers."""

    def __call__(self, padded: PaddedBatch, real: Real, to: Array, spare: Array, /) -> None:
        """Write (tokens, width) to `to`; `spare` is as large."""


class HostEncoder:
    """Embeddings and layers."""

    def __init__(self, embed: Embed, layers: HostLayers) -> None:
        """Put them together."""
        self._embed, self._layers = embed, layers

    def serves(self, padded: PaddedBatch) -> bool:
        """Whether it computes this batch: texts that see all their tokens, not so long that scores take much memory."""
        return padded.attended is None and padded.input_ids.shape[1] <= cpu_kernels.LONG

    def __call__(self, padded: PaddedBatch, *, first_only: bool = False) -> HostStates:
        """Hidden states of the last layer; with `first_only` those of each row's first token."""
        rows, length = padded.input_ids.shape
        spans = spans_of(padded.lengths)
        real = None if spans[-1][1] == rows * length else np.arange(length) < padded.lengths[:, None]
        with np.errstate(all="ignore"):  # what is not finite shows in the rows
            tokens = self._layers(partial(self._embed, padded, real), spans, first_only=first_only)
        if first_only:
            return HostStates(tokens, np.ones(rows, np.int32), 1)
        return HostStates(tokens, padded.lengths, length)


class HostTables:
    """Word + position + token type, normed."""

    @staticmethod
    def take(*tables: nn.Module) -> bool:
        """Whether these can be read on the host: they are not packed."""
        return all(type(table) is nn.Embedding for table in tables)

    def __init__(
        self,
        word: nn.Embedding,
        position: nn.Embedding,
        token_type: nn.Embedding | None,
        norm: nn.LayerNorm,
        positions: Callable[[NDArray[np.int32]], NDArray[np.int32]],
    ) -> None:
        """With views of the weights. `positions` gives those of padded ids, broadcastable to their shape."""
        self._word: Array = np.array(word.weight, copy=False)
        self._position: Array = np.array(position.weight, copy=False)
        self._type: Array | None = None
        if token_type is not None:
            self._type = np.array(token_type.weight, copy=False)
            self._position = self._position + self._type[0]  # of nearly all tokens
        self._norm = HostNorm.of(norm)
        self._positions = positions

    def __call__(self, padded: PaddedBatch, real: Real, to: Array, spare: Array) -> None:
        """Write (tokens, width) to `to`."""
        ids = padded.input_ids
        places = self._positions(ids)
        _read(self._word, _of_tokens(ids, real), to)
        _read(self._position, _of_tokens(np.broadcast_to(places, ids.shape), real), spare)
        to += spare
        if self._type is not None and padded.second_starts.any():
            starts = padded.second_starts[:, None]
            second = (np.arange(ids.shape[1]) >= starts) & (starts > 0)
            to[_of_tokens(second, real)] += self._type[1] - self._type[0]
        self._norm(to, spare, to)


def _of_tokens(numbers: NDArray[Some], real: Real) -> NDArray[Some]:
    """(rows, length) → (tokens,)."""
    return numbers.reshape(-1) if real is None else numbers[real]


def _read(table: Array, rows: NDArray[np.int32], to: Array) -> None:
    """Copy rows of a table."""
    if rows.max() >= len(table):
        raise IndexError(f"row {rows.max()} of a table of {len(table)}")
    np.take(table, rows, axis=0, out=to, mode="clip")  # in the other mode it makes a copy first


def by_mlx(embed: Callable[[DeviceBatch], mx.array]) -> Embed:
    """Embeddings of a form of their own."""

    def to_host(padded: PaddedBatch, real: Real, to: Array, spare: Array) -> None:
        x = embed(DeviceBatch.of(padded))
        mx.eval(x)
        states: Array = np.array(x, copy=False)
        to[:] = states.reshape(to.shape) if real is None else states[real]

    return to_host
