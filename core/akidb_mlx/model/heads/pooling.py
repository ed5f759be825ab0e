"""Hidden states → one vector per text: one function per mode, and POOLING.

Formulas as in sentence-transformers' Pooling module, in float32. Padding is on the right, so that real
tokens are the first `lengths[i]` of row i; a prompt left out of pooling is the first `prompt_lengths[i]`.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.host_states import HostStates

__all__ = ["POOLING", "pool", "pool_on_host"]

Mode = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


def _mask(hidden: mx.array, lengths: mx.array, starts: mx.array) -> mx.array:
    """(rows, length, 1) float32: 1 on tokens that count."""
    positions = mx.arange(hidden.shape[1])[None, :]
    counts = (positions < lengths[:, None]) & (positions >= starts[:, None])
    return counts.astype(mx.float32)[:, :, None]


def _sum(hidden: mx.array, mask: mx.array) -> mx.array:
    # (rows, 1, length) @ (rows, length, width) adds up in one pass, without a masked copy.
    total: mx.array = (mask.swapaxes(1, 2) @ hidden)[:, 0]
    return total


def _row(hidden: mx.array, positions: mx.array) -> mx.array:
    return mx.take_along_axis(hidden, positions[:, None, None], axis=1)[:, 0]


def cls(hidden: mx.array, lengths: mx.array, starts: mx.array, mask: mx.array) -> mx.array:
    """First token that counts; the very first where none does."""
    return _row(hidden, mx.where(starts < lengths, starts, 0))


def mean(hidden: mx.array, lengths: mx.array, starts: mx.array, mask: mx.array) -> mx.array:
    """Sum over the tokens that count, by their number."""
    return _sum(hidden, mask) / mx.maximum(mask.sum(axis=1), 1e-9)


def mean_sqrt_len(hidden: mx.array, lengths: mx.array, starts: mx.array, mask: mx.array) -> mx.array:
    """Sum over the tokens that count, by the square root of their number."""
    return _sum(hidden, mask) / mx.sqrt(mx.maximum(mask.sum(axis=1), 1e-9))


def weighted_mean(hidden: mx.array, lengths: mx.array, starts: mx.array, mask: mx.array) -> mx.array:
    """Mean with weights 1, 2, 3 … by position (SGPT), counted from the first token of the text."""
    weights = mask * mx.arange(1, hidden.shape[1] + 1, dtype=mx.float32)[None, :, None]
    return _sum(hidden, weights) / mx.maximum(weights.sum(axis=1), 1e-9)


def max_(hidden: mx.array, lengths: mx.array, starts: mx.array, mask: mx.array) -> mx.array:
    """Greatest value of each channel over the tokens that count."""
    return mx.where(mask > 0, hidden, -mx.inf).max(axis=1)


def last_token(hidden: mx.array, lengths: mx.array, starts: mx.array, mask: mx.array) -> mx.array:
    """The last real token; zero where the prompt alone filled the text and is left out."""
    return _row(hidden, lengths - 1) * (starts < lengths)[:, None]


POOLING: dict[str, Mode] = {
    "cls": cls,
    "max": max_,
    "mean": mean,
    "mean_sqrt_len": mean_sqrt_len,
    "weighted_mean": weighted_mean,
    "last_token": last_token,
}


def pool(hidden_states: mx.array, lengths: mx.array, prompt_lengths: mx.array, modes: Sequence[str]) -> mx.array:
    """Pool (rows, length, width) to (rows, width × modes) float32, the modes side by side."""
    hidden = hidden_states.astype(mx.float32)
    mask = _mask(hidden, lengths, prompt_lengths)
    pooled = [POOLING[mode](hidden, lengths, prompt_lengths, mask) for mode in modes]
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
