"""A convolution over a text's tokens (DeBERTa-v2)."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.layers.activations import Activation

__all__ = ["NeighbourLayer"]


class NeighbourLayer(nn.Module):
    """A convolution over the embeddings, added to what the first layer gives, and normed."""

    def __init__(self, width: int, kernel: int, groups: int, act: Activation, eps: float) -> None:
        """Make it for an odd number of tokens, `kernel`."""
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2, groups=groups)
        self.norm = nn.LayerNorm(width, eps)
        self._activation = act

    def __call__(self, embeddings: mx.array, x: mx.array, seen: mx.array | None) -> mx.array:
        """Both (rows, length, width), and (rows, length), True on tokens that are seen; the others are zero in it."""
        if seen is not None:
            embeddings = mx.where(seen[..., None], embeddings, 0)
        normed: mx.array = self.norm(x + self._activation(self.conv(embeddings)))
        return normed
