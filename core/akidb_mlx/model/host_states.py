"""Hidden states of a batch on the host, without padding. No MLX here."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HostStates", "spans_of"]


@dataclass(frozen=True)
class HostStates:
    """Those of all rows' tokens, one behind the other."""

    tokens: NDArray[np.float32]
    """(tokens, width)."""
    lengths: NDArray[np.int32]
    """(rows,) tokens of each row that are here."""
    length: int
    """What the batch is padded to."""

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of each row the first of its tokens and the one behind the last."""
        return spans_of(self.lengths)

    def padded(self) -> NDArray[np.float32]:
        """(rows, length, width), zero on padding."""
        rows, width = len(self.lengths), self.tokens.shape[1]
        if len(self.tokens) == rows * self.length:
            return self.tokens.reshape(rows, self.length, width)
        states = np.zeros((rows, self.length, width), np.float32)
        states[np.arange(self.length) < self.lengths[:, None]] = self.tokens
        return states


def spans_of(lengths: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Of rows that lie one behind the other the first token and the one behind the last."""
    ends = list(itertools.accumulate(lengths.tolist()))
    return list(zip([0, *ends[:-1]], ends, strict=True))
