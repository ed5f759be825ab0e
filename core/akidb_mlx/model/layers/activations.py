"""Activation functions by the names that config.json gives them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import UnsupportedModelError
from akidb_mlx.model.layers import cpu_kernels, cuda_kernels

__all__ = ["ACTIVATIONS", "Activation", "activation", "gated", "silu_gate"]


Activation = Callable[[mx.array], mx.array]


def gelu(x: mx.array) -> mx.array:
    """Exact GELU, by the device's fastest way."""
    if cpu_kernels.computes_on_cpu(x):
        return cpu_kernels.gelu(x)
    return cuda_kernels.gelu(x) if x.ndim == 3 and cuda_kernels.serves(x) else nn.gelu(x)


def quick_gelu(x: mx.array) -> mx.array:
    """`x × sigmoid(1.702 x)`."""
    return x * mx.sigmoid(1.702 * x)


def mish(x: mx.array) -> mx.array:
    """`x × tanh(log(1 + exp(x)))` (Misra 2019, arXiv:1908.08681)."""
    return x * mx.tanh(nn.softplus(x))


# transformers' names; it has several for the same function, which differ in rounding alone.
def gelu_tanh(x: mx.array) -> mx.array:
    """GELU approximated by a tanh, by the device's fastest way."""
    return cpu_kernels.gelu_tanh(x) if cpu_kernels.computes_on_cpu(x) else nn.gelu_approx(x)


def gated(act: Activation, gate: mx.array, up: mx.array) -> mx.array:
    """`act(gate) × up`, in one operation where MLX itself compiles the activation."""
    together = None if cpu_kernels.computes_on_cpu(gate) or cuda_kernels.serves(gate) else _GATES.get(act)
    return act(gate) * up if together is None else together(gate, up)


@partial(mx.compile, shapeless=True)
def silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    """`silu(gate) × up`."""
    return nn.silu(gate) * up


@partial(mx.compile, shapeless=True)
def _gelu_gate(gate: mx.array, up: mx.array) -> mx.array:
    return nn.gelu(gate) * up


@partial(mx.compile, shapeless=True)
def _gelu_tanh_gate(gate: mx.array, up: mx.array) -> mx.array:
    return nn.gelu_approx(gate) * up


_GATES: dict[Activation, Callable[[mx.array, mx.array], mx.array]] = {
    gelu: _gelu_gate,
    gelu_tanh: _gelu_tanh_gate,
    nn.silu: silu_gate,
}

ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_10": lambda x: mx.clip(gelu(x), -10, 10),
    "gelu_accurate": nn.gelu_approx,
    "gelu_fast": nn.gelu_approx,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_python_tanh": nn.gelu_approx,
    "gelu_pytorch_tanh": gelu_tanh,
    "hardswish": nn.hardswish,
    "leaky_relu": nn.leaky_relu,
    "linear": lambda x: x,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "relu2": lambda x: mx.square(nn.relu(x)),
    "relu6": nn.relu6,
    "sigmoid": mx.sigmoid,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": mx.tanh,
}


def activation(config: Mapping[str, Any], key: str = "hidden_act") -> Activation:
    """The activation that config.json names under `key`."""
    name = config.get(key)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModelError(f"config.json: {key} is {name!r}; supported: {known}")
    return ACTIVATIONS[name]
