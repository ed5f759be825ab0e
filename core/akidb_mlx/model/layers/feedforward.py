"""Networks of two products, one of them gated."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import Activation, gated
from akidb_mlx.model.layers.products import add_product

__all__ = ["MLP", "GatedMLP", "add_network"]


class _Network(nn.Module):
    """What both have."""

    down: nn.Module

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) or (tokens, width) → the same shape."""
        return cpu_kernels.in_blocks(lambda block: self.down(self.between(block)), x)

    def between(self, x: mx.array) -> mx.array:
        """What the last product takes."""
        raise NotImplementedError


def add_network(x: mx.array, network: nn.Module, y: mx.array) -> mx.array:
    """`x + network(y)`."""
    if isinstance(network, _Network) and not cpu_kernels.is_in_blocks(y):
        return add_product(x, network.down, network.between(y))
    added: mx.array = x + network(y)
    return added


class MLP(_Network):
    """`down(activation(up))`."""

    def __init__(self, width: int, inner: int, act: Activation, *, bias: bool) -> None:
        """Make it with `inner` channels between."""
        super().__init__()
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self._activation = act

    def between(self, x: mx.array) -> mx.array:
        """What the last product takes."""
        return self._activation(self["up"](x))


class GatedMLP(_Network):
    """`down(activation(gate) × up)`, where one product of matrices gives gate and up side by side."""

    def __init__(self, width: int, inner: int, act: Activation, *, bias: bool, down_bias: bool) -> None:
        """Make it with `inner` channels between."""
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=down_bias)
        self._activation = act

    def between(self, x: mx.array) -> mx.array:
        """What the last product takes."""
        gate, up = mx.split(self["gate_up"](x), 2, axis=-1)
        return gated(self._activation, gate, up)
