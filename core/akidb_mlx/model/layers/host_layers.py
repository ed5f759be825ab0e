"""BERT's layers on the CPU, by a tuned BLAS and NumPy in place of MLX.

MLX's CPU build has the BLAS pack the weights anew for every product, takes some 3 µs for an operation however small,
moves heads about to multiply them, and its elementwise loops take two to three times as long as NumPy's. Here tokens
lie one behind the other without padding, products read heads where they are, and what is done to each number is done
while its part of the array is in the core's cache.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from akidb_mlx.device.products import Products, products
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.host_kernels import ACTIVATIONS, Array, HostNorm
from akidb_mlx.model.layers.panels import PanelLinear
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["HostLayers"]

# Bytes of an array that elementwise functions take at a time; three such arrays are in use.
_CACHED = 128 << 10
# Scores between ± this need no greatest one taken off before their exponentials, which stay within float32.
_SAFE_SCORE = 60.0


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
        for layer in {id(layer): layer for layer in layers}.values():
            for parent, name in ((layer.attention, "qkv"), (layer.attention, "out"), (layer, "up"), (layer, "down")):
                parent[name] = PanelLinear(parent[name])
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


class _Scratch:
    """What the layers of one batch write to in turn."""

    def __init__(self, layer: "_Layer", tokens: int, longest: int) -> None:
        width, inner = layer.width, layer.up.outputs
        self.qkv, self.attended = _empty(tokens, 3 * width), _empty(tokens, width)
        self.sums, self.states = _empty(tokens, width), _empty(tokens, width)
        self.inner = _empty(tokens, inner)
        self.scores, self.score_sums = _empty(layer.heads * longest * longest), _empty(layer.heads * longest)
        rows = max(1, _CACHED // (4 * inner))
        self.parts = _empty(rows, inner), _empty(rows, inner)
        self.at_qkv, self.at_attended, self.at_scores, self.at_score_sums = map(
            _address, (self.qkv, self.attended, self.scores, self.score_sums)
        )


class _Linear:
    """A `PanelLinear`, for arrays of the host."""

    def __init__(self, layer: PanelLinear, multiply: Products) -> None:
        self.bias: Array = np.array(layer.bias, copy=False)
        self._weight: Array = np.array(layer.weight, copy=False)
        self._panels, self._inputs, self._panel = self._weight.shape
        self.outputs = self._panels * self._panel
        self._matrix = _address(self._weight), self._panel, self._inputs * self._panel
        self._multiply = multiply

    def __call__(self, x: Array, to: Array, *, add: bool = False) -> None:
        """Write `x @ weight.T` to an array, or add it; without the bias."""
        shape, rows = (len(x), self._panel, self._inputs), (_address(x), self._inputs, 0)
        self._multiply(shape, rows, self._matrix, (_address(to), self.outputs, self._panel), self._panels, add=add)


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
        self.qkv(x, scratch.qkv)
        np.add(scratch.qkv, self.qkv.bias, out=scratch.qkv)
        for place, (start, stop) in enumerate(spans):
            self._attend(scratch, start, stop, place if first_only else start, 1 if first_only else stop - start)
        if first_only:
            x = x[[start for start, _ in spans]]
        count = len(x)
        attended, sums, inner = scratch.attended[:count], scratch.sums[:count], scratch.inner[:count]
        np.add(x, self.out.bias, out=sums)
        states = scratch.states[:count]  # perhaps where x was
        self.out(attended, sums, add=True)
        self.attention_norm(sums, attended, states)
        self.up(states, inner)
        for start in range(0, count, len(scratch.parts[0])):
            part = inner[start : start + len(scratch.parts[0])]
            np.add(part, self.up.bias, out=part)
            self.activate(part, scratch.parts[0][: len(part)], scratch.parts[1][: len(part)])
        np.add(states, self.down.bias, out=sums)
        self.down(inner, sums, add=True)
        self.norm(sums, attended, states)
        return states

    def _attend(self, scratch: _Scratch, start: int, stop: int, place: int, queries: int) -> None:
        """Of one text's first queries: softmax(queries @ keys.T × scale) @ values, all heads, to `attended`."""
        keys, row, count = stop - start, 3 * self.width, self.heads * queries
        at_queries = scratch.at_qkv + 4 * row * start
        at_keys, at_values = at_queries + 4 * self.width, at_queries + 8 * self.width
        by_head = scratch.at_scores, keys, queries * keys
        self._multiply((queries, keys, self.head), (at_queries, row, self.head), (at_keys, row, self.head), by_head,
                       self.heads, transposed=True, scale=self.scale)  # fmt: skip
        scores = scratch.scores[: count * keys]
        table, sums = scores.reshape(count, keys), scratch.score_sums[:count]
        if not max(scores.max(), -scores.min()) < _SAFE_SCORE:
            np.subtract(table, table.max(axis=1, keepdims=True), out=table)
        np.exp(scores, out=scores)
        self._multiply((count, 1, keys), by_head, (self._at_ones, 1, 0), (scratch.at_score_sums, 1, 0))
        np.divide(table, sums[:, None], out=table)
        at_attended = scratch.at_attended + 4 * self.width * place
        self._multiply((queries, self.head, keys), by_head, (at_values, row, self.head),
                       (at_attended, self.width, self.head), self.heads)  # fmt: skip


def _empty(*shape: int) -> Array:
    return np.empty(shape, np.float32)


def _address(array: Array) -> int:
    return array.ctypes.data
