"""SPLADE (Formal et al. 2021, arXiv:2107.05720 and 2109.10086): a weight for each entry of the vocabulary.

weight = max or sum over the tokens of log(1 + relu(logit)); OpenSearch's variant takes the logarithm once more
(arXiv:2504.14839).
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.checkpoint.heads import SpladeHead
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.masked_lm import MaskedLM
from akidb_mlx.model.heads.sparse import SparseHead

__all__ = ["Splade"]

# A slice of logits on a GPU, where each costs a wait; on a CPU it stays in the cache, but a product with fewer words is
# slower.
_GPU_BYTES, _SLICE_BYTES, _CACHE_BYTES, _LEAST_WORDS = 256 << 20, 64 << 20, 16 << 20, 1024
# Arrays of a slice's size that a sum has at a time.
_SUM_ARRAYS = 3


class Splade(SparseHead):
    """Logits of all tokens are never there at once: the vocabulary is gone through in slices of bounded size."""

    def __init__(self, config: Mapping[str, Any], width: int, facts: SpladeHead) -> None:
        """Take hidden states of `width` channels; weights are still to be loaded."""
        masked_lm = MaskedLM(config, width)
        super().__init__(masked_lm.vocabulary)
        self.masked_lm = masked_lm
        self._sums = facts.strategy == "sum"
        self._logarithms = 2 if facts.activation == "log1p_relu" else 1
        self._channels = width
        self._on_cpu = mx.default_device() == mx.cpu

    def settle(self, dtype: mx.Dtype) -> None:
        """On a GPU the product with the vocabulary takes most of the time: in `dtype`, as in the reference."""
        if not self._on_cpu and dtype.size == 2:
            self.masked_lm.decoder.weight = self.masked_lm.decoder.weight.astype(dtype)

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, vocabulary) float32; special tokens count as all others."""
        hidden = hidden_states.astype(mx.float32)
        mask = None if batch.attention_mask is None else batch.attention_mask[:, :, None]
        if mask is not None and not self._sums:
            # Padding as the first token once more, which moves no maximum: no mask as wide as the vocabulary.
            hidden = mx.where(mask, hidden, hidden[:, :1])
        x = self.masked_lm.transform(hidden)
        count, length, _ = x.shape
        words = self._words(count * length)
        if words >= self.width:
            return self._weights(x, mask, 0, self.width)
        rows = mx.zeros((count, self.width))
        for start in range(0, self.width, words):
            rows[:, start : start + words] = self._weights(x, mask, start, start + words)
            mx.eval(rows)  # else the next slice's logits are there before these are gone
        return rows

    def activation_bytes(self, rows: int, length: int) -> int:
        """What it takes beside the backbone: its float32 input and layers, a slice of logits, the rows."""
        tokens = rows * length
        words = min(self.width, self._words(tokens))
        return 4 * (tokens * (3 * self._channels + words * self._arrays) + 2 * rows * self.width)

    def _weights(self, x: mx.array, mask: mx.array | None, start: int, end: int) -> mx.array:
        """Of the words from `start` up to `end`."""
        decoder = self.masked_lm.decoder
        logits = x.reshape(-1, x.shape[-1]).astype(decoder.weight.dtype) @ decoder.weight[start:end].T
        logits = logits.reshape(*x.shape[:2], -1)
        if not self._sums:  # what follows is monotone: once for each word rather than for each token
            return self._activate(self._with_bias(logits.max(axis=1).astype(mx.float32), decoder, start, end))
        weights = self._activate(self._with_bias(logits.astype(mx.float32), decoder, start, end))
        return (weights if mask is None else mx.where(mask, weights, 0)).sum(axis=1)

    @staticmethod
    def _with_bias(logits: mx.array, decoder: nn.Module, start: int, end: int) -> mx.array:
        return logits + decoder.bias[start:end] if "bias" in decoder else logits

    def _activate(self, logits: mx.array) -> mx.array:
        weights = nn.relu(logits)
        for _ in range(self._logarithms):
            weights = mx.log1p(weights)
        return weights

    @property
    def _arrays(self) -> int:
        return _SUM_ARRAYS if self._sums else 1

    def _words(self, tokens: int) -> int:
        """How many words' logits are computed at a time; all of them are at most _SLICE_BYTES."""
        least = min(_LEAST_WORDS, _SLICE_BYTES // (4 * tokens * self._arrays))
        words = (_CACHE_BYTES if self._on_cpu else _GPU_BYTES) // (4 * tokens * self._arrays)
        return max(1, words, least if self._on_cpu else 0)
