"""What two or more architectures share: attention, gated networks, rotary positions, masks."""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.architectures import cpu
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "GatedMLP",
    "PostNormLayer",
    "SelfAttention",
    "activation",
    "attend",
    "make_mask",
]

Activation = Callable[[mx.array], mx.array]
Rope = Callable[[mx.array], mx.array]


def gelu(x: mx.array) -> mx.array:
    """Exact GELU, by the device's fastest way."""
    return cpu.gelu(x) if cpu.computes_on_cpu(x) else nn.gelu(x)


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


def make_mask(attention_mask: mx.array | None, length: int, window: int | None = None) -> mx.array | None:
    """Who sees whom, True where seen, broadcastable to (rows, heads, length, length); None for everybody all.

    `attention_mask` is (rows, length), True on real tokens. With `window`, tokens at most that far apart see
    each other; every token sees itself, so that no row of the softmax is empty.
    """
    padding = None if attention_mask is None else attention_mask[:, None, None, :]
    if window is None or window >= length - 1:
        return padding
    positions = mx.arange(length)
    distance = mx.abs(positions[:, None] - positions[None, :])
    near = distance <= window
    return near if padding is None else (near & padding) | (distance == 0)


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None, scale: float) -> mx.array:
    """Softmax attention over (rows, heads, length, head_dim), by the device's fastest way."""
    if cpu.computes_on_cpu(queries) and keys.shape[1] == queries.shape[1]:
        return cpu.attention(queries, keys, values, mask, scale)
    if mask is not None and mask.dtype == mx.bool_ and not mx.metal.is_available():
        # CUDA's fused attention takes an additive mask three times as fast as a boolean one.
        mask = mx.where(mask, 0.0, mx.finfo(queries.dtype).min).astype(queries.dtype)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


class SelfAttention(nn.Module):
    """Attention in which queries, keys and values come from one product of matrices."""

    def __init__(
        self, width: int, heads: int, kv_heads: int | None = None, *, bias: bool = True, out_bias: bool = True
    ) -> None:
        """Make it with `heads` of `width / heads` channels; fewer `kv_heads` are shared by groups of heads."""
        super().__init__()
        if heads < 1 or width % heads:
            raise CheckpointError(f"config.json: {heads} attention heads cannot share {width} channels")
        self._head = width // heads
        self._heads, self._kv_heads = heads, kv_heads or heads
        self.qkv = nn.Linear(width, (heads + 2 * self._kv_heads) * self._head, bias=bias)
        self.out = nn.Linear(width, width, bias=out_bias)

    def __call__(self, x: mx.array, mask: mx.array | None, rope: Rope | None = None) -> mx.array:
        """(rows, length, width) → the same shape; `mask` as from `make_mask`, or an additive one."""
        rows, length, _ = x.shape
        qkv = self.qkv(x).reshape(rows, length, -1, self._head).swapaxes(1, 2)
        queries, keys, values = mx.split(qkv, (self._heads, self._heads + self._kv_heads), axis=1)
        if rope is not None:
            queries, keys = rope(queries), rope(keys)
        attended = attend(queries, keys, values, mask, self._head**-0.5)
        return self.out(attended.swapaxes(1, 2).reshape(rows, length, -1))


class GatedMLP(nn.Module):
    """`down(activation(gate) × up)`, where one product of matrices gives gate and up side by side."""

    def __init__(self, width: int, inner: int, act: Activation, *, bias: bool, down_bias: bool) -> None:
        """Make it with `inner` channels between."""
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=down_bias)
        self._activation = act

    def __call__(self, x: mx.array) -> mx.array:
        """(…, width) → the same shape."""
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)
        return self.down(self._activation(gate) * up)


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

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """(rows, length, width) → the same shape."""
        x = self.attention_norm(x + self.attention(x, mask))
        return self.norm(x + self.down(self._activation(self.up(x))))
