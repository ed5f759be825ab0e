"""BERT's layers on the CPU, by a tuned BLAS and NumPy in place of MLX.

MLX's CPU build has the BLAS pack the weights anew for every product, takes some 3 µs for an operation however small,
moves heads about to multiply them, and its elementwise loops take two to three times as long as NumPy's. Here tokens
lie one behind the other without padding, products read heads where they are, and what is done to each number is done
while its part of the array is in the core's cache.
"""

import mmap
import threading
from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from akidb_mlx.device.products import AS_IT_IS, ROWS, TRANSPOSED, Multiply, products
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.host_kernels import ACTIVATIONS, Array, HostNorm
from akidb_mlx.model.layers.panels import PanelLinear
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["HostLayers"]

# Bytes of an array that elementwise functions take at a time; three such arrays are in use.
_CACHED = 128 << 10
# Scores between ± this need no greatest one taken off before their exponentials, which stay within float32.
_SAFE_SCORE = 60.0
# Tokens × inputs × outputs of a product that OpenBLAS computes without packing, and tokens that pay for no packing.
_UNPACKED, _TOKENS = 1_000_000, 128
# Its kernels take so many tokens at a time: three more are as fast as one.
_TOGETHER = 4
# Numbers between the starts of two arrays, that memory to compute in has at least, and that a thread keeps of it.
_APART, _LEAST, _KEPT = 16, 1 << 20, 16 << 20
Fill = Callable[[Array, Array], None]
"""Writes the states that the first layer gets to an array, with another of its shape to compute in."""


class HostLayers:
    """A stack of layers; it holds views of their weights, which must stay as they are."""

    def __init__(self, layers: Sequence[PostNormLayer], multiply: Multiply) -> None:
        """Take layers with an activation of `ACTIVATIONS`."""
        made = {id(layer): _Layer(layer, multiply) for layer in layers}
        self._layers = [made[id(layer)] for layer in layers]
        self._arenas: dict[int, Array] = {}

    @classmethod
    def of(cls, layers: Sequence[PostNormLayer]) -> "HostLayers | None":
        """Lay the weights of `layers` out anew, in place; None where MLX is to compute them.

        Call it once they are loaded, on the CPU in float32.
        """
        made = products()
        if made is None or not all(layer._activation in ACTIVATIONS and _is_plain(layer) for layer in layers):
            return None
        for layer in [] if made.packs else {id(layer): layer for layer in layers}.values():
            for parent, name in _linears(layer):
                parent[name] = PanelLinear(parent[name])
            mx.eval(layer.parameters())
        return cls(layers, made.multiply)

    def __call__(self, fill: Fill, spans: Sequence[tuple[int, int]], *, first_only: bool = False) -> Array:
        """(tokens, width) of all spans, or with `first_only` of each span's first token.

        The tokens of a span see each other; a span has at most `cpu_kernels.LONG`. What it gives is good until this
        thread's next call.
        """
        count, longest = spans[-1][1], max(stop - start for start, stop in spans)
        arena = self._arena(_Scratch.size(self._layers[0], count, longest))
        scratch = _Scratch(self._layers[0], count, longest, arena)
        tokens = scratch.states[:count]
        fill(tokens, scratch.attended[:count])
        for layer in self._layers[:-1]:
            tokens = layer(tokens, spans, scratch)
        return self._layers[-1](tokens, spans, scratch, first_only=first_only)

    def _arena(self, size: int) -> Array:
        """This thread's memory to compute in; the next call takes it again, unless it is much.

        It is the system's own: what was never written takes none, and what a larger one replaces is given back. From
        the C library's heap, which keeps holes of all sizes, a process grew on and on.
        """
        thread = threading.get_ident()
        arena = self._arenas.get(thread)
        if arena is None or len(arena) < size:
            numbers = max(_LEAST, 1 << (size - 1).bit_length())
            arena = np.frombuffer(_own_memory(4 * numbers), np.float32)
            if size <= _KEPT:
                self._arenas[thread] = arena
        return arena


def _linears(layer: PostNormLayer) -> list[tuple[nn.Module, str]]:
    return [(layer.attention, "qkv"), (layer.attention, "out"), (layer, "up"), (layer, "down")]


def _is_plain(layer: PostNormLayer) -> bool:
    """Whether no weight of it is packed."""
    return all(type(parent[name]) is nn.Linear for parent, name in _linears(layer))


class _Scratch:
    """What the layers of one batch write to in turn, and where each lies: parts of one array.

    The networks' inner numbers lie where queries, keys, values and scores were.
    """

    def __init__(self, layer: "_Layer", tokens: int, longest: int, arena: Array) -> None:
        """Parts of `arena`, of at least `size` numbers."""
        width, inner = layer.width, layer.up.outputs
        self._left = arena
        self.attended = self._rows(tokens, width)
        self.sums, self.states = self._rows(tokens, width), self._rows(tokens, width)
        rows = min(_part_rows(inner), tokens)
        self.parts = self._take(rows * inner).reshape(rows, inner), self._take(rows * inner).reshape(rows, inner)
        shared = self._left
        self.inner = self._rows(tokens, inner)
        self._left = shared
        self.qkv = self._rows(tokens, 3 * width)
        self.scores, self.score_sums = self._take(layer.heads * longest * longest), self._take(layer.heads * longest)
        self.at_qkv, self.at_attended, self.at_sums = map(_address, (self.qkv, self.attended, self.sums))
        self.at_states, self.at_inner = map(_address, (self.states, self.inner))
        self.at_scores, self.at_score_sums = map(_address, (self.scores, self.score_sums))

    @staticmethod
    def size(layer: "_Layer", tokens: int, longest: int) -> int:
        """Numbers that it takes, and some between the parts."""
        inner, count = layer.up.outputs, _rounded(tokens)
        shared = max(3 * count * layer.width + layer.heads * longest * (longest + 1), count * inner)
        return 3 * count * layer.width + 2 * min(_part_rows(inner), tokens) * inner + shared + 16 * _APART

    def _take(self, count: int) -> Array:
        taken, self._left = self._left[:count], self._left[-(-count // _APART) * _APART :]
        return taken

    def _rows(self, count: int, width: int) -> Array:
        """For so many tokens, and some more of zeros."""
        array = self._take(_rounded(count) * width).reshape(-1, width)
        array[count:] = 0
        return array


class _Linear:
    """A linear layer, plain or in panels, for arrays of the host."""

    def __init__(self, layer: nn.Module, multiply: Multiply) -> None:
        self.bias: Array = np.array(layer.bias, copy=False)
        self._weight: Array = np.array(layer.weight, copy=False)
        self._at = _address(self._weight)
        self._in_panels = isinstance(layer, PanelLinear)
        if self._in_panels:
            self._panels, self._inputs, self._panel = self._weight.shape
            self.outputs = self._panels * self._panel
        else:
            self.outputs, self._inputs = self._weight.shape
        self._multiply = multiply

    def __call__(self, count: int, at: int, to: int, beta: float = 0.0) -> None:
        """Write `x @ weight.T + beta × what is there` of `count` tokens; without the bias.

        Behind the tokens there is room for up to three more.
        """
        inputs, outputs = self._inputs, self.outputs
        if not self._in_panels:
            self._multiply(ROWS, AS_IT_IS, TRANSPOSED, count, outputs, inputs, 1.0, at, inputs, 0,
                           self._at, inputs, 0, beta, to, outputs, 0, 1)  # fmt: skip
            return
        count = _rounded(count)
        most = _rounded(-(-count // -(-count // _TOKENS)))
        for first in range(0, count, most):
            tokens = min(most, count - first)
            self._panel_by_panel(tokens, at + 4 * inputs * first, to + 4 * outputs * first, beta)

    def _panel_by_panel(self, count: int, at: int, to: int, beta: float) -> None:
        """The inputs in parts that need no packing, each added to what those before gave."""
        inputs, panel = self._inputs, self._panel
        part = -(-inputs // -(-count * panel * inputs // _UNPACKED))
        for first in range(0, inputs, part):
            self._multiply(ROWS, AS_IT_IS, AS_IT_IS, count, panel, min(part, inputs - first), 1.0,
                           at + 4 * first, inputs, 0, self._at + 4 * panel * first, panel, inputs * panel,
                           1.0 if first else beta, to, self.outputs, panel, self._panels)  # fmt: skip


class _Layer:
    """One layer."""

    def __init__(self, layer: PostNormLayer, multiply: Multiply) -> None:
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
        """`scratch.states` → the same, or with `first_only` each span's first token; `x` is the part that is there."""
        self.qkv(len(x), scratch.at_states, scratch.at_qkv)
        np.add(scratch.qkv, self.qkv.bias, out=scratch.qkv)
        for place, (start, stop) in enumerate(spans):
            self._attend(scratch, start, stop, place if first_only else start, 1 if first_only else stop - start)
        if first_only:
            x = x[[start for start, _ in spans]]
        count = len(x)
        attended, sums, inner = scratch.attended[:count], scratch.sums[:count], scratch.inner[:count]
        np.add(x, self.out.bias, out=sums)
        states = scratch.states[:count]  # where x was
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


def _rounded(count: int) -> int:
    return -(-count // _TOGETHER) * _TOGETHER


def _part_rows(inner: int) -> int:
    """Tokens whose inner numbers fit the cache."""
    return max(1, _CACHED // (4 * inner))


def _address(array: Array) -> int:
    return array.ctypes.data


def _own_memory(size: int) -> mmap.mmap:
    """Bytes that no forked child shares."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
