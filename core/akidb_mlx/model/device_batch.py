"""A padded batch as arrays of the device: what a backbone and a head read of it."""

from dataclasses import dataclass
from typing import Self

import mlx.core as mx

from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["DeviceBatch"]


@dataclass(frozen=True)
class DeviceBatch:
    """Rows of one forward pass."""

    input_ids: mx.array
    """(rows, length)."""
    lengths: mx.array
    """(rows,) real tokens of each row."""
    attention_mask: mx.array | None
    """(rows, length), True on tokens that are seen: the real ones, but for some that an encoding says; None for all."""
    prompt_lengths: mx.array
    """(rows,) leading tokens that pooling leaves out."""
    token_types: mx.array | None = None
    """(rows, length), 1 on a second text and what follows it, else 0; None where all are 0."""
    real: mx.array | None = None
    """(rows, length), True on real tokens, where some of them are not seen; None where `attention_mask` says it."""

    @classmethod
    def of(cls, batch: PaddedBatch) -> Self:
        """Hand a batch to the device."""
        lengths, positions = mx.array(batch.lengths), mx.arange(batch.input_ids.shape[1])[None, :]
        padded = bool((batch.lengths < batch.input_ids.shape[1]).any())
        real = positions < lengths[:, None] if padded or batch.attended is not None else None
        seen = real
        if batch.attended is not None:
            first, last = mx.array(batch.attended[:, :1]), mx.array(batch.attended[:, 1:])
            seen = (positions >= first) & (positions < last)
        types = None
        if batch.second_starts.any():
            starts = mx.array(batch.second_starts)[:, None]
            types = ((positions >= starts) & (starts > 0)).astype(mx.int32)
        return cls(
            mx.array(batch.input_ids),
            lengths,
            seen,
            mx.array(batch.prompt_lengths),
            types,
            None if batch.attended is None else real,
        )
