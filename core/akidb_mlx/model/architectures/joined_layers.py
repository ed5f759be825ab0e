"""mlx-lm's layers with their products joined: queries, keys and values in one, gate and up in one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import fuse
from akidb_mlx.model.layers import cpu_kernels, cuda_kernels
from akidb_mlx.model.layers.activations import Activation
from akidb_mlx.model.layers.attention import attention_layer
from akidb_mlx.model.layers.masks import Mask
from akidb_mlx.model.layers.rope import Rope

__all__ = ["GatedNetwork", "JoinedAttention", "JoinedNetwork", "PlainNetwork", "QueryScale", "join"]


QueryScale = Callable[[int, int], mx.array]
"""The first token's position and the number of tokens → (tokens, 1), what queries are multiplied by."""


class JoinedAttention(nn.Module):
    """mlx-lm's attention in its plain form, with one product of matrices for queries, keys and values."""

    def __init__(self, theirs: Any, *, joined: bool = True, query_scale: QueryScale | None = None) -> None:
        """Take over its settings, and its layers where they are not `joined`; joined weights are still to be loaded."""
        super().__init__()
        self._heads, self._kv_heads, self._scale = theirs.n_heads, theirs.n_kv_heads, theirs.scale
        self._query_scale = query_scale
        parts = theirs.q_proj, theirs.k_proj, theirs.v_proj
        self.channels = sum(int(part.weight.shape[0]) for part in parts)
        """Of queries, keys and values together."""
        if joined:
            self.qkv_proj = _side_by_side(*parts)
        else:
            self.q_proj, self.k_proj, self.v_proj = parts
        self.o_proj, self._rope = theirs.o_proj, theirs.rope
        if "q_norm" in theirs:
            self.q_norm, self.k_norm = theirs.q_norm, theirs.k_norm

    def __call__(self, x: mx.array, mask: Mask, cache: None = None) -> mx.array:
        """(rows, length, width) → the same shape."""
        return attention_layer(self._project, self._finish, x, mask, self._scale)

    def _project(self, x: mx.array, first: int) -> tuple[mx.array, mx.array, mx.array]:
        if "qkv_proj" in self and not first and self._query_scale is None and isinstance(self._rope, Rope):
            qkv = self.qkv_proj(x)
            return self._in_one_pass(qkv) or self._split(qkv, first)
        parts = [self.qkv_proj(x)] if "qkv_proj" in self else [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        return self._split(mx.concatenate(parts, axis=-1), first)

    def _in_one_pass(self, qkv: mx.array) -> tuple[mx.array, mx.array, mx.array] | None:
        """Norms and positions together, on CUDA; None: not here."""
        head = qkv.shape[-1] // (self._heads + 2 * self._kv_heads)
        periods = self._rope.periods(head)
        if head not in cuda_kernels.HEADS or periods is None or not cuda_kernels.serves(qkv):
            return None
        norms = (self.q_norm.weight, self.k_norm.weight, self.q_norm.eps) if "q_norm" in self else None
        if norms is not None and (norms[0].dtype != qkv.dtype or self.k_norm.eps != self.q_norm.eps):
            return None
        queries, keys = cuda_kernels.rope_of_heads(qkv, self._heads, self._kv_heads, periods, norms)
        values = qkv[..., (self._heads + self._kv_heads) * head :].reshape(*qkv.shape[:2], self._kv_heads, head)
        return queries.swapaxes(1, 2), keys.swapaxes(1, 2), values.swapaxes(1, 2)

    def _split(self, qkv: mx.array, first: int) -> tuple[mx.array, mx.array, mx.array]:
        length = qkv.shape[1]
        qkv = qkv.reshape(*qkv.shape[:2], self._heads + 2 * self._kv_heads, -1)
        queries, keys, values = mx.split(qkv, (self._heads, self._heads + self._kv_heads), axis=2)
        if "q_norm" in self:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = self._rope(queries.swapaxes(1, 2), first), self._rope(keys.swapaxes(1, 2), first)
        if self._query_scale is not None:
            queries = queries * self._query_scale(first, length).astype(queries.dtype)
        return queries, keys, values.swapaxes(1, 2)

    def _finish(self, x: mx.array, attended: mx.array) -> mx.array:
        return self.o_proj(attended.swapaxes(1, 2).reshape(*x.shape[:2], -1))


class JoinedNetwork(nn.Module):
    """mlx-lm's gated network with one product of matrices for gate and up."""

    def __init__(self, theirs: Any) -> None:
        """Take over its layers; the joined weights are still to be loaded."""
        super().__init__()
        self.gate_up_proj = _side_by_side(theirs.gate_proj, theirs.up_proj)
        self.down_proj = theirs.down_proj
        self._activation: Activation | None = getattr(theirs, "_activation", None)

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(self._of_block, x)

    def _of_block(self, x: mx.array) -> mx.array:
        both = self.gate_up_proj(x)
        if self._activation is None and x.ndim == 3 and cuda_kernels.serves(both):
            return self.down_proj(cuda_kernels.silu_gate(both))
        gate, up = mx.split(both, 2, axis=-1)
        return self.down_proj(_silu_gate(gate, up) if self._activation is None else self._activation(gate) * up)


@partial(mx.compile, shapeless=True)
def _silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    return nn.silu(gate) * up


def join(weights: dict[str, mx.array], parent: str, ours: str, theirs: tuple[str, ...]) -> bool:
    """Join layers in `weights` if they are there and alike: quantised ones may differ in bits, others in biases."""
    parts = {
        key: weight for key, weight in weights.items() if key.startswith(tuple(f"{parent}{one}." for one in theirs))
    }
    kinds = [
        {(key.rsplit(".", 1)[1], weight.shape[1:], weight.dtype) for key, weight in parts.items() if f"{one}." in key}
        for one in theirs
    ]
    if not kinds[0] or any(kind != kinds[0] for kind in kinds):
        return False
    for key in parts:
        del weights[key]
    weights.update(fuse(parts, {ours: theirs}))
    return True


def _side_by_side(*linears: nn.Linear) -> nn.Linear:
    first = linears[0]
    return nn.Linear(first.weight.shape[1], sum(one.weight.shape[0] for one in linears), bias="bias" in first)


class GatedNetwork(nn.Module):
    """mlx-lm's gated network with another activation."""

    def __init__(self, theirs: Any, act: Activation) -> None:
        """Take over its layers."""
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = theirs.gate_proj, theirs.up_proj, theirs.down_proj
        self._activation = act

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(self._of_block, x)

    def _of_block(self, x: mx.array) -> mx.array:
        return self.down_proj(self._activation(self.gate_proj(x)) * self.up_proj(x))


class PlainNetwork(nn.Module):
    """mlx-lm's network without a gate, with another activation."""

    def __init__(self, theirs: Any, up: str, down: str, act: Activation) -> None:
        """Take over its two layers by their names, which stay."""
        super().__init__()
        self[up], self[down] = theirs[up], theirs[down]
        self._up, self._down, self._activation = up, down, act

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(self._of_block, x)

    def _of_block(self, x: mx.array) -> mx.array:
        return self[self._down](self._activation(self[self._up](x)))
