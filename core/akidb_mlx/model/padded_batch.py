"""Token ids → right-padded batches; pure NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PaddedBatch", "TokenIds", "pad_batch"]

TokenIds = NDArray[np.int32]
"""(tokens,) of one text, with special tokens."""


@dataclass(frozen=True)
class PaddedBatch:
    """Rows of one forward pass."""

    input_ids: NDArray[np.int32]
    """(rows, length), padded on the right with zeros, which are masked or out of a causal model's sight."""
    lengths: NDArray[np.int32]
    """(rows,) real tokens of each row, at least one."""
    prompt_lengths: NDArray[np.int32]
    """(rows,) leading tokens that pooling leaves out."""


def pad_batch(
    token_ids: Sequence[TokenIds], prompt_lengths: Sequence[int], length: int, rows: int | None = None
) -> PaddedBatch:
    """Pad `token_ids` on the right to `length`, at least the longest row's, and to `rows` by the last one again."""
    again = (rows or len(token_ids)) - len(token_ids)
    token_ids = [*token_ids, *[token_ids[-1]] * again]
    prompt_lengths = [*prompt_lengths, *[prompt_lengths[-1]] * again]
    lengths = np.array([len(ids) for ids in token_ids], dtype=np.int32)
    input_ids = np.zeros((len(token_ids), length), dtype=np.int32)
    input_ids[np.arange(length) < lengths[:, None]] = np.concatenate(token_ids)
    return PaddedBatch(input_ids, lengths, np.array(prompt_lengths, dtype=np.int32))
