"""BERT's layers on the CPU, by a tuned BLAS and NumPy in place of MLX.

MLX's CPU build has the BLAS pack the weights anew for every product, takes some 3 µs for an operation however small,
moves heads about to multiply them, and its elementwise loops take two to three times as long as NumPy's. Here tokens
lie one behind the other without padding, products read heads where they are, and what is done to each number is done
while its part of the array is in the core's cache.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from akidb_mlx.device.products import AS_IT_IS, ROWS, TRANSPOSED, Products, products
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.host_kernels import ACTIVATIONS, Array, HostNorm
from akidb_mlx.model.layers.panels import PanelLinear
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["HostLayers"]

# Bytes of an array that elementwise functions take at a time; three such arrays are in use.
_CACHED = 128 << 10
# Scores between ± this need no greatest one taken off before their exponentials, which stay within float32.
_SAFE_SCORE = 60.0
# Tokens up to which panels are faster than the whole weight.
_FEW = 96
# Most that keeping both takes: for models 384 channels wide.
_BOTH_BYTES = 96 << 20


class HostLayers:
    """A stack of layers; it holds views of their weights, which must stay as they are."""

    def __init__(self, layers: Sequence[PostNormLayer], multiply: Products) -> None:
        """Take layers whose products are `PanelLinear`, with an activation of `ACTIVATIONS`."""
        made = {id(layer): _Layer(layer, multiply) for layer in layers}
        self._layers = [made[id(layer)] for layer in layers]

    @classmethod
    def of(cls, layers: Sequence[PostNormLayer]) -> "HostLayers | None":
        """Lay the weights of `layers` out anew, in place; None where MLX is to compute them.

        Call it once they are loaded, on the CPU in float32.
        """
        multiply = products()
        if multiply is None or any(layer._activation not in ACTIVATIONS for layer in layers):
            return None
        once = list({id(layer): layer for layer in layers}.values())
        whole = sum(parent[name].weight.nbytes for layer in once for parent, name in _linears(layer)) <= _BOTH_BYTES
        for layer in once:
            for parent, name in _linears(layer):
                parent[name] = PanelLinear(parent[name], whole=whole)
            mx.eval(layer.parameters())
        return cls(layers, multiply)

    def __call__(self, tokens: Array, spans: Sequence[tuple[int, int]], *, first_only: bool = False) -> Array:
        """(tokens, width) → the same shape, or with `first_only` the states of each span's first token.

        The tokens of a span see each other; a span has at most `cpu_kernels.LONG`.
        """
        scratch = _Scratch(self._layers[0], len(tokens), max(stop - start for start, stop in spans))
        for layer in self._layers[:-1]:
            tokens = layer(tokens, spans, scratch)
        return self._layers[-1](tokens, spans, scratch, first_only=first_only)


def _linears(layer: PostNormLayer) -> list[tuple[nn.Module, str]]:
    return [(layer.attention, "qkv"), (layer.attention, "out"), (layer, "up"), (layer, "down")]


class _Scratch:
    """What the layers of one batch write to in turn, and where each lies."""

    def __init__(self, layer: "_Layer", tokens: int, longest: int) -> None:
        width, inner = layer.width, layer.up.outputs
        self.qkv, self.attended = _empty(tokens, 3 * width), _empty(tokens, width)
        self.sums, self.states = _empty(tokens, width), _empty(tokens, width)
        self.inner = _empty(tokens, inner)
        self.scores, self.score_sums = _empty(layer.heads * longest * longest), _empty(layer.heads * longest)
        rows = max(1, _CACHED // (4 * inner))
        self.parts = _empty(rows, inner), _empty(rows, inner)
        self.at_qkv, self.at_attended, self.at_sums = map(_address, (self.qkv, self.attended, self.sums))
        self.at_states, self.at_inner = map(_address, (self.states, self.inner))
        self.at_scores, self.at_score_sums = map(_address, (self.scores, self.score_sums))


class _Linear:
    """A `PanelLinear`, for arrays of the host."""

    def __init__(self, layer: PanelLinear, multiply: Products) -> None:
        self.bias: Array = np.array(layer.bias, copy=False)
        self._weight: Array = np.array(layer.weight, copy=False)
        self._whole: Array | None = np.array(layer.whole, copy=False) if "whole" in layer else None
        self._panels, self._inputs, self._panel = self._weight.shape
        self.outputs = self._panels * self._panel
        self._at = _address(self._weight)
        self._at_whole = 0 if self._whole is None else _address(self._whole)
        self._multiply = multiply

    def __call__(self, count: int, at: int, to: int, beta: float = 0.0) -> None:
        """Write `x @ weight.T + beta × what is there` of `count` tokens; without the bias."""
        inputs, outputs, panel = self._inputs, self.outputs, self._panel
        if self._at_whole and count > _FEW:
            self._multiply(ROWS, AS_IT_IS, TRANSPOSED, count, outputs, inputs, 1.0, at, inputs, 0,
                           self._at_whole, inputs, 0, beta, to, outputs, 0, 1)  # fmt: skip
        else:
            self._multiply(ROWS, AS_IT_IS, AS_IT_IS, count, panel, inputs, 1.0, at, inputs, 0,
                           self._at, panel, inputs * panel, beta, to, outputs, panel, self._panels)  # fmt: skip


class _Layer:
    """One layer."""

    def __init__(self, layer: PostNormLayer, multiply: Products) -> None:
        attention = layer.attention
        self.heads, self.head, self.scale = attention._heads, attention._head, attention._scale
        self.width = self.heads * self.head
        self.qkv, self.out = _Linear(attention.qkv, multiply), _Linear(attention.out, multiply)
        self.up, self.down = _Linear(layer.up, multiply), _Linear(layer.down, multiply)
        self.attention_norm, self.norm = HostNorm.of(layer.attention_norm), HostNorm.of(layer.norm)
        self.activate = ACTIVATIONS[layer._activation]
        self._multiply = multiply
        self._ones = np.ones(cpu_kernels.LONG, np.float32)
        self._at_ones = _address(self._ones)

    def __call__(
        self, x: Array, spans: Sequence[tuple[int, int]], scratch: _Scratch, *, first_only: bool = False
    ) -> Array:
        """(tokens, width) → the same, or with `first_only` each span's first token."""
        self.qkv(len(x), _address(x), scratch.at_qkv)
        np.add(scratch.qkv, self.qkv.bias, out=scratch.qkv)
        for place, (start, stop) in enumerate(spans):
            self._attend(scratch, start, stop, place if first_only else start, 1 if first_only else stop - start)
        if first_only:
            x = x[[start for start, _ in spans]]
        count = len(x)
        attended, sums, inner = scratch.attended[:count], scratch.sums[:count], scratch.inner[:count]
        np.add(x, self.out.bias, out=sums)
        states = scratch.states[:count]  # perhaps where x was
        self.out(count, scratch.at_attended, scratch.at_sums, 1.0)
        self.attention_norm(sums, attended, states)
        self.up(count, scratch.at_states, scratch.at_inner)
        for start in range(0, count, len(scratch.parts[0])):
            part = inner[start : start + len(scratch.parts[0])]
            np.add(part, self.up.bias, out=part)
            self.activate(part, scratch.parts[0][: len(part)], scratch.parts[1][: len(part)])
        np.add(states, self.down.bias, out=sums)
        self.down(count, scratch.at_inner, scratch.at_sums, 1.0)
        self.norm(sums, attended, states)
        return states

    def _attend(self, scratch: _Scratch, start: int, stop: int, place: int, queries: int) -> None:
        """Of one text's first queries: softmax(queries @ keys.T × scale) @ values, all heads, to `attended`."""
        width, heads, head, keys = self.width, self.heads, self.head, stop - start
        row, count, step = 3 * width, heads * queries, queries * keys
        at, at_scores = scratch.at_qkv + 4 * row * start, scratch.at_scores
        self._multiply(ROWS, AS_IT_IS, TRANSPOSED, queries, keys, head, self.scale, at, row, head,
                       at + 4 * width, row, head, 0.0, at_scores, keys, step, heads)  # fmt: skip
        scores = scratch.scores[: count * keys]
        table, sums = scores.reshape(count, keys), scratch.score_sums[:count]
        if not max(scores.max(), -scores.min()) < _SAFE_SCORE:
            np.subtract(table, table.max(axis=1, keepdims=True), out=table)
        np.exp(scores, out=scores)
        self._multiply(ROWS, AS_IT_IS, AS_IT_IS, count, 1, keys, 1.0, at_scores, keys, 0,
                       self._at_ones, 1, 0, 0.0, scratch.at_score_sums, 1, 0, 1)  # fmt: skip
        np.divide(table, sums[:, None], out=table)
        self._multiply(ROWS, AS_IT_IS, AS_IT_IS, queries, head, keys, 1.0, at_scores, keys, step,
                       at + 8 * width, row, head, 0.0, scratch.at_attended + 4 * width * place, width, head,
                       heads)  # fmt: skip


def _empty(*shape: int) -> Array:
    return np.empty(shape, np.float32)


def _address(array: Array) -> int:
    return array.ctypes.data
