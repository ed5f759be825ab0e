"""What two or more architectures share: attention, gated networks, rotary positions, masks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.cpu_kernels import Finish, Project

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "GatedMLP",
    "LongMask",
    "Mask",
    "PostNormLayer",
    "SelfAttention",
    "activation",
    "attend",
    "attention_layer",
    "attention_layer_in_blocks",
    "is_in_blocks",
    "make_causal_mask",
    "make_mask",
]

Activation = Callable[[mx.array], mx.array]
Rope = Callable[[mx.array, int], mx.array]
"""(rows, heads, tokens, head_dim) and the first token's position → the same shape."""
Then = Callable[[mx.array, mx.array], mx.array]
"""Tokens and their attention, both (rows, tokens, width) → the same shape; it sees each token alone."""


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


@dataclass(frozen=True)
class LongMask:
    """Who sees whom among so many tokens that the answer for all of them together would take too much memory."""

    length: int
    padding: mx.array | None = None
    """(rows, length), True on real tokens."""
    before: int | None = None
    """How far back a token sees; None for to the start."""
    after: int | None = None
    """How far ahead; None for to the end."""

    def block(self, start: int, stop: int) -> tuple[slice, mx.array | None]:
        """For the queries from `start` to `stop`: which keys they see at most, and who sees whom among them."""
        first = 0 if self.before is None else max(0, start - self.before)
        last = self.length if self.after is None else min(self.length, stop + self.after)
        seen = slice(first, last)
        padding = None if self.padding is None else self.padding[:, None, None, seen]
        if self.before is None and self.after is None:
            return seen, padding
        ahead = mx.arange(first, last)[None, :] - mx.arange(start, stop)[:, None]
        near = mx.ones(ahead.shape, mx.bool_)
        if self.before is not None:
            near = near & (ahead >= -self.before)
        if self.after is not None:
            near = near & (ahead <= self.after)
        return seen, near if padding is None else (near & padding) | (ahead == 0)


Mask = mx.array | LongMask | str | None
"""Who sees whom: True where seen or added to the scores, of a long text, "causal", or None for everybody all."""


def make_mask(attention_mask: mx.array | None, length: int, window: int | None = None) -> mx.array | LongMask | None:
    """Who sees whom, True where seen, broadcastable to (rows, heads, length, length); None for everybody all.

    `attention_mask` is (rows, length), True on real tokens. With `window`, tokens at most that far apart see
    each other; every token sees itself, so that no row of the softmax is empty.
    """
    if window is None or window >= length - 1:
        return None if attention_mask is None else attention_mask[:, None, None, :]
    return _windowed(LongMask(length, attention_mask, window, window))


def make_causal_mask(length: int, window: int | None = None) -> mx.array | LongMask:
    """As `make_mask`: tokens see themselves and what is before them, with `window` only so many in all.

    With padding on the right it needs no mask of its own: no real token sees it.
    """
    return _windowed(LongMask(length, None, None if window is None else window - 1, 0))


def _windowed(mask: LongMask) -> mx.array | LongMask:
    if mask.length > cpu_kernels.LONG and mx.default_device() == mx.cpu:
        return mask
    whole = mask.block(0, mask.length)[1]
    assert whole is not None
    return whole


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: Mask, scale: float) -> mx.array:
    """Softmax attention over (rows, heads, length, head_dim), by the device's fastest way.

    There may be fewer heads of keys and values, each for a group of queries' heads.
    """
    length = queries.shape[2]
    if cpu_kernels.computes_on_cpu(queries):
        if length > cpu_kernels.LONG:
            return cpu_kernels.attention_in_blocks(queries, keys, values, _by_block(mask, length), scale)
        if keys.shape[1] == queries.shape[1] and not isinstance(mask, str | LongMask):
            return cpu_kernels.attention(queries, keys, values, mask, scale)
    if isinstance(mask, LongMask):  # on the CPU, but not in float32
        mask = mask.block(0, length)[1]
    if isinstance(mask, mx.array) and mask.dtype == mx.bool_ and not mx.metal.is_available():
        # CUDA's fused attention takes an additive mask three times as fast as a boolean one.
        mask = mx.where(mask, 0.0, mx.finfo(queries.dtype).min).astype(queries.dtype)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def attention_layer(project: Project, finish: Finish, x: mx.array, mask: Mask, scale: float) -> mx.array:
    """`finish(x, attend(*project(x, 0), mask, scale))`; a long text on the CPU is computed block by block."""
    if is_in_blocks(x):
        return attention_layer_in_blocks(project, finish, x, mask, scale)
    return finish(x, attend(*project(x, 0), mask, scale))


def is_in_blocks(x: mx.array) -> bool:
    """Whether layers compute (rows, length, width) block by block: a long text on the CPU."""
    return x.shape[1] > cpu_kernels.LONG and cpu_kernels.computes_on_cpu(x)


def attention_layer_in_blocks(
    project: cpu_kernels.Project,
    finish: cpu_kernels.Finish,
    x: mx.array,
    mask: Mask,
    scale: float,
    cap: float | None = None,
) -> mx.array:
    """`cpu_kernels.attention_layer_in_blocks` with any mask."""
    return cpu_kernels.attention_layer_in_blocks(project, finish, x, _by_block(mask, x.shape[1]), scale, cap)


def _by_block(mask: Mask, length: int) -> cpu_kernels.BlockMask:
    """Of any mask what a block of queries needs."""
    if isinstance(mask, str):
        mask = LongMask(length, after=0)
    if isinstance(mask, LongMask):
        return mask.block
    everything = slice(None)
    if mask is None or mask.shape[-2] == 1:
        return lambda start, stop: (everything, mask)
    return lambda start, stop: (everything, mask[..., start:stop, :])


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

    def __call__(
        self,
        x: mx.array,
        mask: Mask,
        rope: Rope | None = None,
        *,
        norm: Callable[[mx.array], mx.array] | None = None,
        then: Then | None = None,
    ) -> mx.array:
        """(rows, length, width) → the same shape; `mask` as from `make_mask`, or an additive one.

        `norm` comes before; `then` is the rest of the layer, which a long text computes together with its attention.
        """

        def project(x: mx.array, first: int) -> tuple[mx.array, mx.array, mx.array]:
            qkv = self.qkv(x if norm is None else norm(x))
            heads = qkv.reshape(*x.shape[:2], -1, self._head).swapaxes(1, 2)
            queries, keys, values = mx.split(heads, (self._heads, self._heads + self._kv_heads), axis=1)
            if rope is not None:
                queries, keys = rope(queries, first), rope(keys, first)
            return queries, keys, values

        def finish(x: mx.array, attended: mx.array) -> mx.array:
            out = self.out(attended.swapaxes(1, 2).reshape(*x.shape[:2], -1))
            return out if then is None else then(x, out)

        return attention_layer(project, finish, x, mask, self._head**-0.5)


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

    def __call__(self, x: mx.array, mask: Mask) -> mx.array:
        """(rows, length, width) → the same shape."""
        return self.attention(x, mask, then=self._then)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        x = self.attention_norm(x + attended)
        return self.norm(x + cpu_kernels.in_blocks(self._network, x))

    def _network(self, x: mx.array) -> mx.array:
        return self.down(self._activation(self.up(x)))
