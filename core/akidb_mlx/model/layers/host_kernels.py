"""What the CPU's layers compute of single numbers and of a token's channels, by NumPy and in place.

NumPy's loops use the widest vectors that the core has; MLX's CPU build is made for every x86-64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.layers import activations, cpu_kernels

__all__ = ["ACTIVATIONS", "Activate", "Array", "HostNorm"]

Array = NDArray[np.float32]
Activate = Callable[[Array, Array, Array], None]
"""Of an array in place, with two more of its shape to compute in."""


@dataclass(frozen=True)
class HostNorm:
    """A `LayerNorm`, for arrays of the host."""

    weight: Array
    bias: Array
    eps: float

    @classmethod
    def of(cls, layer: nn.LayerNorm) -> "HostNorm":
        """With views of its weights."""
        return cls(np.array(layer.weight, copy=False), np.array(layer.bias, copy=False), layer.eps)

    def __call__(self, x: Array, spare: Array, to: Array) -> None:
        """Write the norm of each row of `x` to an array, by way of another."""
        channels = x.shape[1]
        mean = np.add.reduce(x, axis=1, keepdims=True)
        mean *= np.float32(1 / channels)
        np.subtract(x, mean, out=spare)
        deviation = np.einsum("ij,ij->i", spare, spare)[:, None]
        deviation *= np.float32(1 / channels)
        deviation += np.float32(self.eps)
        np.sqrt(deviation, out=deviation)
        np.divide(spare, deviation, out=spare)
        np.multiply(spare, self.weight, out=spare)
        np.add(spare, self.bias, out=to)


def _gelu(x: Array, size: Array, power: Array) -> None:
    """`cpu_kernels.gelu`."""
    np.abs(x, out=size)
    _power(size, cpu_kernels.ERFC, 5, power)
    np.divide(size, power, out=power)
    np.add(x, size, out=x)
    np.subtract(x, power, out=x)
    np.multiply(x, np.float32(0.5), out=x)


def _gelu_tanh(x: Array, spare: Array, tanh: Array) -> None:
    """`x (1 + tanh(z / 2)) / 2` for the z of `cpu_kernels.gelu_tanh`."""
    linear, cubic = cpu_kernels.TANH
    np.multiply(x, x, out=spare)
    np.multiply(spare, np.float32(cubic / 2), out=spare)
    np.add(spare, np.float32(linear / 2), out=spare)
    np.multiply(spare, x, out=spare)
    np.tanh(spare, out=tanh)
    np.add(tanh, np.float32(1), out=tanh)
    np.multiply(x, np.float32(0.5), out=x)
    np.multiply(x, tanh, out=x)


def _relu(x: Array, *spare: Array) -> None:
    np.maximum(x, np.float32(0), out=x)


ACTIVATIONS: dict[Any, Activate] = {
    activations.gelu: _gelu,
    activations.gelu_tanh: _gelu_tanh,
    nn.relu: _relu,
}
"""By the function that computes the same with MLX."""


def _power(x: Array, coefficients: Sequence[float], squarings: int, to: Array) -> None:
    """`(1 + c₀x + c₁x² + …) ** (2 ** squarings)`; infinite where that is beyond float32."""
    np.multiply(x, np.float32(coefficients[-1]), out=to)
    for coefficient in coefficients[-2::-1]:
        np.add(to, np.float32(coefficient), out=to)
        np.multiply(to, x, out=to)
    np.add(to, np.float32(1), out=to)
    for _ in range(squarings):
        np.square(to, out=to)
