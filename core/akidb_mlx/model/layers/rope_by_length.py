"""Rotary positions whose frequencies a text's length decides: dynamic NTK and LongRoPE, each text by its own length.

The formulas are transformers' (`modeling_rope_utils`), which takes the padded length of a batch.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.layers.rope import Frequencies, Rope, check_rope_fields, frequencies, turned_channels

__all__ = ["BY_LENGTH", "RopeByLength", "make_rope_by_length"]


class RopeByLength:
    """Turns as `Rope` does, by frequencies that depend on how long a row's text is; `of_rows` says that first."""

    def __init__(self, frequencies_of: Callable[[int], Frequencies], within: int, **options: Any) -> None:
        """Take what gives a text's frequencies by its length, and up to which length they are the same.

        `options` are `Rope`'s.
        """
        self._frequencies_of, self._within, self._options = frequencies_of, within, options
        self._short = Rope(frequencies_of(1), **options)
        self._bound = threading.local()  # several threads compute with one model

    @contextlib.contextmanager
    def of_rows(self, lengths: NDArray[np.int32]) -> Iterator[None]:
        """While it is open, calls of this thread turn rows of these lengths."""
        self._bound.rope = self._of_rows(lengths)
        try:
            yield
        finally:
            del self._bound.rope

    def _of_rows(self, lengths: NDArray[np.int32]) -> "Rope | _RowsRope":
        if (lengths <= self._within).all():
            return self._short
        rows = np.stack([self._frequencies_of(int(length)) for length in lengths])
        if (rows == rows[0]).all():
            return Rope(rows[0], **self._options)
        return _RowsRope(rows, **self._options)

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        """(rows, heads, length, channels) → the same shape; `offset` is the first token's position."""
        turned: mx.array = self._bound.rope(x, offset)
        return turned


class _RowsRope:
    """`Rope` with frequencies for each row."""

    def __init__(self, rows: Frequencies, *, interleaved: bool = False, scale: float = 1.0) -> None:
        """Take (rows, dims / 2) frequencies."""
        self._dims = 2 * rows.shape[1]
        self._frequencies, self._interleaved, self._scale = mx.array(rows), interleaved, scale

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        positions = mx.arange(offset, offset + x.shape[2], dtype=mx.float32)
        angles = positions[None, None, :, None] * self._frequencies[:, None, None, :]
        sine, cosine = mx.sin(angles) * self._scale, mx.cos(angles) * self._scale
        turned, passed = x[..., : self._dims].astype(mx.float32), x[..., self._dims :]
        if self._interleaved:
            left, right = turned[..., ::2], turned[..., 1::2]
        else:
            left, right = mx.split(turned, 2, axis=-1)
        parts = [left * cosine - right * sine, left * sine + right * cosine]
        joined = mx.stack(parts, axis=-1).flatten(-2) if self._interleaved else mx.concatenate(parts, axis=-1)
        return mx.concatenate([joined.astype(x.dtype), passed], axis=-1)


def make_rope_by_length(dims: int, parameters: Mapping[str, Any], positions: int, **options: Any) -> RopeByLength:
    """The rotary positions of heads with `dims` channels; `positions`: config.json's max_position_embeddings."""
    check_rope_fields(parameters)
    try:
        made = BY_LENGTH[parameters["rope_type"]](turned_channels(dims, parameters), parameters, positions, options)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json: rope_type {parameters['rope_type']!r} lacks a setting or has a wrong one ({error!r})"
        ) from None
    return made


def _dynamic(dims: int, parameters: Mapping[str, Any], positions: int, options: Mapping[str, Any]) -> RopeByLength:
    """Dynamic NTK scaling: beyond the trained length the base grows with the text's."""
    base, factor = float(parameters["rope_theta"]), float(parameters["factor"])

    def of(length: int) -> Frequencies:
        grown = factor * max(length, positions) / positions - (factor - 1)
        return frequencies(dims, base * grown ** (dims / (dims - 2)))

    return RopeByLength(of, positions, **options)


def _longrope(dims: int, parameters: Mapping[str, Any], positions: int, options: Mapping[str, Any]) -> RopeByLength:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): divisors of each frequency, others beyond the trained length.

    Sines and cosines have one factor, on either side of it.
    """
    trained = int(parameters["original_max_position_embeddings"])
    plain = frequencies(dims, float(parameters["rope_theta"]))
    short, long = (plain / _divisors(parameters, key, len(plain)) for key in ("short_factor", "long_factor"))
    factor, scale = float(parameters["factor"]), parameters.get("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    return RopeByLength(lambda length: long if length > trained else short, trained, scale=float(scale), **options)


def _divisors(parameters: Mapping[str, Any], key: str, count: int) -> Frequencies:
    values: Sequence[float] = parameters[key]
    if len(values) != count or not all(isinstance(value, int | float) and value > 0 for value in values):
        raise ValueError(f"{key} must be {count} positive numbers")
    return np.array(values, np.float32)


BY_LENGTH: dict[str, Callable[[int, Mapping[str, Any], int, Mapping[str, Any]], RopeByLength]] = {
    "dynamic": _dynamic,
    "longrope": _longrope,
}
"""rope_type → what makes it."""
