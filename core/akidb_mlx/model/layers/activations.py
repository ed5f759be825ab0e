"""Activation functions by the names that config.json gives them."""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import UnsupportedModelError
from akidb_mlx.model.layers import cpu_kernels

__all__ = ["ACTIVATIONS", "Activation", "activation"]


Activation = Callable[[mx.array], mx.array]


def gelu(x: mx.array) -> mx.array:
    """Exact GELU, by the device's fastest way."""
    return cpu_kernels.gelu(x) if cpu_kernels.computes_on_cpu(x) else nn.gelu(x)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}


def activation(config: Mapping[str, Any], key: str = "hidden_act") -> Activation:
    """The activation that config.json names under `key`."""
    name = config.get(key)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModelError(f"config.json: {key} is {name!r}; supported: {known}")
    return ACTIVATIONS[name]
