"""What two or more architectures share."""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import UnsupportedModelError

__all__ = ["ACTIVATIONS", "activation", "attend"]

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}


def activation(config: Mapping[str, Any], key: str = "hidden_act") -> Callable[[mx.array], mx.array]:
    """The activation that config.json names under `key`."""
    name = config.get(key)
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModelError(f"config.json: {key} is {name!r}; supported: {known}")
    return ACTIVATIONS[name]


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, attention_mask: mx.array | None, scale: float
) -> mx.array:
    """Attention over (rows, heads, length, head_dim); every token sees every real token of its row.

    `attention_mask` is (rows, length), True on real tokens, or None where none is padding.
    """
    mask = None if attention_mask is None else attention_mask[:, None, None, :]
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
