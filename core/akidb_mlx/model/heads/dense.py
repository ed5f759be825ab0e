"""Dense layers after pooling."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

__all__ = ["ACTIVATIONS", "DenseLayer"]


ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "identity": lambda x: x,
    "tanh": mx.tanh,
    "gelu": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "sigmoid": mx.sigmoid,
}


class DenseLayer(nn.Module):
    """A linear layer after pooling with its activation, in float32."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, activation: str, residual: bool) -> None:
        """Make the layer with weights still to be loaded."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)
        self._adds_input = residual
        self._activation = ACTIVATIONS[activation]

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, in_features) → (rows, out_features)."""
        out = self._activation(self.linear(x))
        if not self._adds_input:
            return out
        return out + (self.residual(x) if "residual" in self else x)
