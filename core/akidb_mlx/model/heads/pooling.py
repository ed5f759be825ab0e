"""Hidden states → one vector per text: one function per mode, and POOLING.

Formulas as in sentence-transformers' Pooling module, in float32. Padding is on the right, so that real
tokens are the first `lengths[i]` of row i; a prompt left out of pooling is the first `prompt_lengths[i]`.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.device_batch import KEPT_LENGTH, kept
from akidb_mlx.model.host_states import HostStates

__all__ = ["POOLING", "pool", "pool_on_host", "token_of"]


class Counted:
    """Which tokens count, on the host: so the device has nothing to compute of it."""

    def __init__(self, length: int, lengths: NDArray[np.int32], starts: NDArray[np.int32]) -> None:
        """Of rows that are padded to `length` those from `starts` to `lengths`."""
        self.lengths, self.starts = lengths, starts
        places = np.arange(length)
        self.tokens = (places < lengths[:, None]) & (places >= starts[:, None])
        """(rows, length)."""


Mode = Callable[[mx.array, Counted], mx.array]


def token_of(hidden: mx.array, places: NDArray[np.int32]) -> mx.array:
    """(rows, length, width) and a place in each row → (rows, width)."""
    if (places == places[0]).all():
        return hidden[:, int(places[0])]
    return mx.take_along_axis(hidden, mx.array(places[:, None, None]), axis=1)[:, 0]


def _weighted(hidden: mx.array, weights: NDArray[np.float32], divisors: NDArray[np.float32]) -> mx.array:
    """The sum over the tokens, (rows, length) weights, by a number for each row."""
    shares = weights / np.maximum(divisors, np.float32(1e-9))[:, None]
    return _added_up(hidden, mx.array(shares[:, None]))


def _added_up(hidden: mx.array, shares: mx.array) -> mx.array:
    # (rows, 1, length) @ (rows, length, width) adds up in one pass, without a masked copy.
    total: mx.array = (shares @ hidden.astype(mx.float32))[:, 0]
    return total


def _even(length: int, start: int, stop: int) -> NDArray[np.float32]:
    """(1, 1, length): the same share for each token from `start` to `stop`."""
    places = np.arange(length)
    counts = (places >= start) & (places < stop)
    return counts[None, None].astype(np.float32) / np.maximum(np.float32(stop - start), np.float32(1e-9))


def cls(hidden: mx.array, counted: Counted) -> mx.array:
    """First token that counts; the very first where none does."""
    return token_of(hidden, np.where(counted.starts < counted.lengths, counted.starts, 0)).astype(mx.float32)


def mean(hidden: mx.array, counted: Counted) -> mx.array:
    """Sum over the tokens that count, by their number."""
    span = {*zip(counted.starts.tolist(), counted.lengths.tolist(), strict=True)}
    if len(span) == 1 and hidden.shape[1] <= KEPT_LENGTH:
        return _added_up(hidden, kept(_even, hidden.shape[1], *span.pop()))
    weights = counted.tokens.astype(np.float32)
    return _weighted(hidden, weights, weights.sum(axis=1))


def mean_sqrt_len(hidden: mx.array, counted: Counted) -> mx.array:
    """Sum over the tokens that count, by the square root of their number."""
    weights = counted.tokens.astype(np.float32)
    return _weighted(hidden, weights, np.sqrt(np.maximum(weights.sum(axis=1), np.float32(1e-9))))


def weighted_mean(hidden: mx.array, counted: Counted) -> mx.array:
    """Mean with weights 1, 2, 3 … by position (SGPT), counted from the first token of the text."""
    weights = counted.tokens * np.arange(1, hidden.shape[1] + 1, dtype=np.float32)
    return _weighted(hidden, weights, weights.sum(axis=1))


def max_(hidden: mx.array, counted: Counted) -> mx.array:
    """Greatest value of each channel over the tokens that count."""
    if not counted.tokens.all():
        hidden = mx.where(mx.array(counted.tokens[:, :, None]), hidden, -mx.inf)
    return hidden.max(axis=1).astype(mx.float32)


def last_token(hidden: mx.array, counted: Counted) -> mx.array:
    """The last real token; zero where the prompt alone filled the text and is left out."""
    row = token_of(hidden, counted.lengths - 1).astype(mx.float32)
    is_there = counted.starts < counted.lengths
    return row if is_there.all() else row * mx.array(is_there[:, None])


POOLING: dict[str, Mode] = {
    "cls": cls,
    "max": max_,
    "mean": mean,
    "mean_sqrt_len": mean_sqrt_len,
    "weighted_mean": weighted_mean,
    "last_token": last_token,
}


def pool(
    hidden_states: mx.array, lengths: NDArray[np.int32], prompt_lengths: NDArray[np.int32], modes: Sequence[str]
) -> mx.array:
    """Pool (rows, length, width) to (rows, width × modes) float32, the modes side by side."""
    counted = Counted(hidden_states.shape[1], lengths, prompt_lengths)
    pooled = [POOLING[mode](hidden_states, counted) for mode in modes]
    return pooled[0] if len(pooled) == 1 else mx.concatenate(pooled, axis=-1)


def pool_on_host(
    states: HostStates, prompt_lengths: NDArray[np.int32], modes: Sequence[str]
) -> NDArray[np.float32] | None:
    """As `pool`, of states on the host; None where a mode is not computed there."""
    if not set(modes) <= _ON_HOST.keys():
        return None
    rows = [
        [_ON_HOST[mode](states.tokens[start:stop], min(left_out, stop - start)) for mode in modes]
        for (start, stop), left_out in zip(states.spans, prompt_lengths.tolist(), strict=True)
    ]
    return np.array(rows, np.float32).reshape(len(rows), -1)


def _first_on_host(tokens: NDArray[np.float32], left_out: int) -> NDArray[np.float32]:
    return tokens[left_out if left_out < len(tokens) else 0]


def _mean_on_host(tokens: NDArray[np.float32], left_out: int) -> NDArray[np.float32]:
    total: NDArray[np.float32] = np.add.reduce(tokens[left_out:], axis=0)
    total *= np.float32(1 / max(len(tokens) - left_out, 1e-9))
    return total


_ON_HOST: dict[str, Callable[[NDArray[np.float32], int], NDArray[np.float32]]] = {
    "cls": _first_on_host,
    "mean": _mean_on_host,
}
"""Mode → what it makes of a row's tokens, of which the first so many do not count."""
