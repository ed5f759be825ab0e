"""BERT's layer."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import Activation
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.flat import by_row
from akidb_mlx.model.layers.masks import Mask
from akidb_mlx.model.layers.norms import norm_of_sum
from akidb_mlx.model.layers.rope import Rope

__all__ = ["PostNormLayer"]


class PostNormLayer(nn.Module):
    """BERT's layer: attention, then a two-layer network, each added to its input and normed."""

    def __init__(self, width: int, heads: int, inner: int, act: Activation, eps: float) -> None:
        """Make one layer."""
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps)
        self._activation = act

    def __call__(self, x: mx.array, mask: Mask, rope: Rope | None = None, *, rows: int = 0) -> mx.array:
        """(rows, length, width), or (rows × length, width) with `rows` → the same shape."""
        made: mx.array = self["attention"](x, mask, rope, then=self._then, rows=rows)
        return made

    def first(self, x: mx.array, mask: Mask, *, rows: int = 0) -> mx.array:
        """The same → (rows, 1, width): what it makes of each row's first token."""
        return by_row(self.attention(x, mask, then=self._then, first_only=True, rows=rows), rows)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        x = norm_of_sum(self["attention_norm"], x, self["attention"]["out"](attended))
        return norm_of_sum(self["norm"], x, cpu_kernels.in_blocks(self._network, x))

    def _network(self, x: mx.array) -> mx.array:
        made: mx.array = self["down"](self._activation(self["up"](x)))
        return made
