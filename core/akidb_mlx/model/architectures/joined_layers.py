"""mlx-lm's layers with their products joined: queries, keys and values in one, gate and up in one."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import fuse
from akidb_mlx.model.layers import cpu_kernels, cuda_kernels
from akidb_mlx.model.layers.activations import Activation, gated, silu_gate
from akidb_mlx.model.layers.attention import attend, attention_layer
from akidb_mlx.model.layers.masks import Mask
from akidb_mlx.model.layers.products import add_product
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

    def added_to(self, x: mx.array, normed: mx.array, mask: Mask, rows: int) -> mx.array:
        """`x` plus what it makes of `normed`, both (rows × length, width)."""
        return add_product(x, self.o_proj, self._attended(normed, mask, rows))

    def of_tokens(self, x: mx.array, mask: Mask, rows: int) -> mx.array:
        """(rows × length, width) → the same shape."""
        out: mx.array = self.o_proj(self._attended(x, mask, rows))
        return out

    def _attended(self, x: mx.array, mask: Mask, rows: int) -> mx.array:
        """What the last product takes."""
        attended = attend(*self._split(self._products(x), 0, rows), mask, self._scale)
        return attended.swapaxes(1, 2).reshape(len(x), -1)

    def _products(self, x: mx.array) -> mx.array:
        if "qkv_proj" in self:
            joined: mx.array = self.qkv_proj(x)
            return joined
        return mx.concatenate([self.q_proj(x), self.k_proj(x), self.v_proj(x)], axis=-1)

    def _project(self, x: mx.array, first: int) -> tuple[mx.array, mx.array, mx.array]:
        if "qkv_proj" in self and not first and self._query_scale is None and isinstance(self._rope, Rope):
            qkv = self.qkv_proj(x)
            return self._in_one_pass(qkv) or self._split(qkv, first, len(x))
        return self._split(self._products(x), first, len(x))

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

    def _split(self, qkv: mx.array, first: int, rows: int) -> tuple[mx.array, mx.array, mx.array]:
        heads = self._heads + 2 * self._kv_heads
        by_token = qkv.reshape(rows, -1, heads, qkv.shape[-1] // heads)
        if "q_norm" in self:  # on heads as they lie
            parts = mx.split(by_token, (self._heads, self._heads + self._kv_heads), axis=2)
            normed = self.q_norm(parts[0]), self.k_norm(parts[1]), parts[2]
            queries, keys, values = (part.swapaxes(1, 2) for part in normed)
        else:
            by_head = by_token.swapaxes(1, 2)
            queries, keys, values = mx.split(by_head, (self._heads, self._heads + self._kv_heads), axis=1)
        queries, keys = self._rope(queries, first), self._rope(keys, first)
        if self._query_scale is not None:
            queries = queries * self._query_scale(first, queries.shape[2]).astype(queries.dtype)
        return queries, keys, values

    def _finish(self, x: mx.array, attended: mx.array) -> mx.array:
        return self.o_proj(attended.swapaxes(1, 2).reshape(*x.shape[:2], -1))


class JoinedNetwork(nn.Module):
    """mlx-lm's gated network with one product of matrices for gate and up."""

    def __init__(self, theirs: Any, act: Activation | None = None) -> None:
        """Take over its layers; the joined weights are still to be loaded. `act` is what its class computes: SiLU."""
        super().__init__()
        self.gate_up_proj = _side_by_side(theirs.gate_proj, theirs.up_proj)
        self.down_proj = theirs.down_proj
        self._activation: Activation | None = getattr(theirs, "_activation", act)

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(self._of_block, x)

    def added_to(self, x: mx.array, normed: mx.array) -> mx.array:
        """`x` plus what it makes of `normed`, both (tokens, width)."""
        if cpu_kernels.is_in_blocks(normed):
            return x + self(normed)
        return add_product(x, self.down_proj, self._between(normed))

    def _of_block(self, x: mx.array) -> mx.array:
        return self.down_proj(self._between(x))

    def _between(self, x: mx.array) -> mx.array:
        both = self.gate_up_proj(x)
        if self._activation is None and cuda_kernels.serves(both):
            return cuda_kernels.silu_gate(both)
        gate, up = mx.split(both, 2, axis=-1)
        return silu_gate(gate, up) if self._activation is None else gated(self._activation, gate, up)


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
