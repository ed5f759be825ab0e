"""Token ids → right-padded batches; pure NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.tokenizer import TokenIds

__all__ = ["Batch", "make_batch", "padded_length"]


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass."""

    input_ids: NDArray[np.int32]
    """(rows, length), padded on the right with zeros, which are masked or out of a causal model's sight."""
    lengths: NDArray[np.int32]
    """(rows,) real tokens of each row, at least one."""
    prompt_lengths: NDArray[np.int32]
    """(rows,) leading tokens that pooling leaves out."""


def padded_length(length: int, limit: int | None = None, steps: int = 8) -> int:
    """Round a length up so that few shapes occur: at most `steps` of them between two powers of two.

    Padding stays under `1 / steps` of the length (lengths up to `steps` are kept exact), and never goes
    past `limit`, the model's own.
    """
    step = max(1, (1 << (max(length, 1) - 1).bit_length()) // (2 * steps))
    padded = -(-length // step) * step
    return padded if limit is None else max(length, min(padded, limit))


def make_batch(token_ids: Sequence[TokenIds], prompt_lengths: Sequence[int], length: int) -> Batch:
    """Pad `token_ids` on the right to `length`, which is at least the longest row."""
    lengths = np.array([len(ids) for ids in token_ids], dtype=np.int32)
    input_ids = np.zeros((len(token_ids), length), dtype=np.int32)
    input_ids[np.arange(length) < lengths[:, None]] = np.concatenate(token_ids)
    return Batch(input_ids, lengths, np.asarray(prompt_lengths, dtype=np.int32))
