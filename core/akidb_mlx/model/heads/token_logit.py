"""A language model's logit of one token, less another's: the score of generative rerankers."""

import mlx.core as mx
import numpy as np

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.heads.pooling import token_of

__all__ = ["TokenLogit"]


class TokenLogit(Head):
    """Only the rows of the language model's head that the score needs: one or two of some 150,000."""

    width = 1

    def __init__(self, width: int, tokens: int, *, scale: float = 1.0, softcap: float | None = None) -> None:
        """Rows of `width` for one token or two; each logit is scaled, then bounded by `softcap`."""
        super().__init__()
        self.weight = mx.zeros((tokens, width))
        self._scale, self._softcap = scale, softcap

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, 1) float32: the first logit minus the second."""
        last = token_of(hidden_states, batch.padded.lengths - np.int32(1))
        logits = last.astype(mx.float32) @ self.weight.T * self._scale
        if self._softcap is not None:
            logits = mx.tanh(logits / self._softcap) * self._softcap
        return logits[:, :1] if logits.shape[1] == 1 else logits[:, :1] - logits[:, 1:]
