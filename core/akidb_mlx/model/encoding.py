"""What a row is to the model: its token ids and whatever else decides it. No MLX here."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoding", "RowKey", "TokenIds"]

TokenIds = NDArray[np.int32]
"""(tokens,) of one text or pair, with special tokens."""

RowKey = tuple[bytes, int, int, tuple[int, int] | None, bytes | None, str | None]


@dataclass(slots=True, eq=False)
class Encoding:
    """One row for the model; what decides it beside the tokens are marks in them."""

    token_ids: TokenIds
    prompt_length: int = 0
    """Leading tokens that pooling leaves out."""
    second_start: int = 0
    """First token of a second text where the model tells the two apart (token type 1); 0: it does not."""
    attended: tuple[int, int] | None = None
    """First and behind the last of the tokens that are seen; the others are computed all the same. None: all are."""
    kept: NDArray[np.bool_] | None = None
    """(tokens,): which tokens give a row, in a model with a row per token; None: all do."""
    task: str | None = None
    """Whose adapter computes it, in a model with one for each task; None: the model without any."""

    def __len__(self) -> int:
        """Its tokens."""
        return len(self.token_ids)

    @property
    def key(self) -> RowKey:
        """Equal for equal rows alone."""
        kept = None if self.kept is None else self.kept.tobytes()
        return self.token_ids.tobytes(), self.prompt_length, self.second_start, self.attended, kept, self.task
