"""Encodings → right-padded batches; pure NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.encoding import Encoding

__all__ = ["PaddedBatch", "pad_batch"]


@dataclass(frozen=True)
class PaddedBatch:
    """Rows of one forward pass."""

    input_ids: NDArray[np.int32]
    """(rows, length), padded on the right with zeros, which are masked or out of a causal model's sight."""
    lengths: NDArray[np.int32]
    """(rows,) real tokens of each row, at least one."""
    prompt_lengths: NDArray[np.int32]
    """(rows,) leading tokens that pooling leaves out."""
    second_starts: NDArray[np.int32]
    """(rows,) first token of a second text that has a token type of its own; 0 where there is none."""
    attended: NDArray[np.int32] | None = None
    """(rows, 2) first and behind the last of the tokens that are seen; None where all of each row's are."""
    kept: tuple[NDArray[np.bool_] | None, ...] = ()
    """Of each row which tokens give one, None for all; empty where that holds for each."""
    task: str | None = None
    """What all its rows are for."""


def pad_batch(encodings: Sequence[Encoding], length: int, rows: int | None = None) -> PaddedBatch:
    """Pad `encodings` on the right to `length`, at least the longest row's, and to `rows` by the last one again."""
    task = encodings[0].task
    if any(encoding.task != task for encoding in encodings):
        raise ValueError("a batch has rows of one task")
    again = (rows or len(encodings)) - len(encodings)
    encodings = [*encodings, *[encodings[-1]] * again]
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int32)
    tokens = np.concatenate([encoding.token_ids for encoding in encodings])
    if len(tokens) == len(encodings) * length:
        input_ids = tokens.reshape(-1, length)
    else:
        input_ids = np.zeros((len(encodings), length), dtype=np.int32)
        input_ids[np.arange(length) < lengths[:, None]] = tokens
    return PaddedBatch(
        input_ids,
        lengths,
        np.array([encoding.prompt_length for encoding in encodings], dtype=np.int32),
        np.array([encoding.second_start for encoding in encodings], dtype=np.int32),
        _attended(encodings),
        tuple(encoding.kept for encoding in encodings) if any(one.kept is not None for one in encodings) else (),
        task,
    )


def _attended(encodings: Sequence[Encoding]) -> NDArray[np.int32] | None:
    if all(encoding.attended is None for encoding in encodings):
        return None
    return np.array([encoding.attended or (0, len(encoding)) for encoding in encodings], dtype=np.int32)
