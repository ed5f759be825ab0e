"""Networks of two products, one of them gated."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import Activation

__all__ = ["MLP", "GatedMLP"]


class MLP(nn.Module):
    """`down(activation(up))`."""

    def __init__(self, width: int, inner: int, act: Activation, *, bias: bool) -> None:
        """Make it with `inner` channels between."""
        super().__init__()
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self._activation = act

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(self._of_block, x)

    def _of_block(self, x: mx.array) -> mx.array:
        return self.down(self._activation(self.up(x)))


class GatedMLP(nn.Module):
    """`down(activation(gate) × up)`, where one product of matrices gives gate and up side by side."""

    def __init__(self, width: int, inner: int, act: Activation, *, bias: bool, down_bias: bool) -> None:
        """Make it with `inner` channels between."""
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=down_bias)
        self._activation = act

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(self._of_block, x)

    def _of_block(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)
        return self.down(self._activation(gate) * up)
