"""BERT's layers on the CPU, by a tuned BLAS and NumPy in place of MLX.

MLX's CPU build packs the weights anew for every product, takes some 3 µs for an operation however small, moves heads
about to multiply them, and has elementwise loops a half or a third as fast as NumPy's. Here tokens lie one behind the
other without padding, products read heads where they are, and what is done to each number is done while a part of the
array is in the core's cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.device.products import Products, products
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import activations, cpu_kernels
from akidb_mlx.model.layers.masks import make_mask
from akidb_mlx.model.layers.panels import PanelLinear
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["HostLayers", "through_layers"]

Array = NDArray[np.float32]
# Bytes of an array that elementwise functions take at a time; three such arrays are in use.
_CACHED = 128 << 10
# Scores between ± this need no greatest one taken off before their exponentials, which stay within float32.
_SAFE_SCORE = 60.0


class HostLayers:
    """A stack of layers; it holds views of their weights, which must stay as they are."""

    def __init__(self, layers: Sequence[PostNormLayer], multiply: Products) -> None:
        """Take layers whose products are `PanelLinear`, with an activation of `_ACTIVATIONS`."""
        made: dict[int, _Layer] = {}
        for layer in layers:
            made.setdefault(id(layer), _Layer(layer, multiply))
        self._layers = [made[id(layer)] for layer in layers]

    @classmethod
    def of(cls, layers: Sequence[PostNormLayer]) -> "HostLayers | None":
        """Lay the weights of `layers` out anew, in place; None where MLX is to compute them.

        Call it once they are loaded, on the CPU in float32.
        """
        multiply = products()
        if multiply is None or any(layer._activation not in _ACTIVATIONS for layer in layers):
            return None
        for layer in {id(layer): layer for layer in layers}.values():
            for parent, name in ((layer.attention, "qkv"), (layer.attention, "out"), (layer, "up"), (layer, "down")):
                parent[name] = PanelLinear(parent[name])
            mx.eval(layer.parameters())
        return cls(layers, multiply)

    def serves(self, batch: DeviceBatch) -> bool:
        """Whether it computes this batch: texts that see all their tokens, and are not so long that scores add up."""
        return batch.real is None and batch.input_ids.shape[1] <= cpu_kernels.LONG

    def __call__(self, x: mx.array, batch: DeviceBatch, *, first_only: bool = False) -> mx.array:
        """(rows, length, width) → the same shape, zero on padding; `first_only`: (rows, 1, width) of the first tokens.

        `batch` says how many tokens a row has.
        """
        mx.eval(x)
        given = np.array(x, copy=False)
        rows, length, width = given.shape
        lengths = np.array(batch.lengths)
        whole = batch.attention_mask is None
        real = None if whole else np.arange(length) < lengths[:, None]
        tokens: Array = given.reshape(-1, width) if real is None else given[real]
        ends = np.cumsum(lengths).tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        scratch = _Scratch(self._layers[0], len(tokens), max(stop - start for start, stop in spans))
        with np.errstate(all="ignore"):  # infinite numbers are found in the rows
            for layer in self._layers[:-1]:
                tokens = layer(tokens, spans, scratch)
            tokens = self._layers[-1](tokens, spans, scratch, first_only=first_only)
        if first_only or real is None:
            return mx.array(tokens.reshape(rows, -1, width))
        result = np.zeros((rows, length, width), np.float32)
        result[real] = tokens
        return mx.array(result)


def through_layers(
    x: mx.array,
    batch: DeviceBatch,
    layers: Sequence[PostNormLayer],
    on_host: HostLayers | None,
    *,
    first_only: bool = False,
) -> mx.array:
    """Hidden states of the last layer, (rows, length, width), or with `first_only` (rows, 1, width)."""
    if on_host is not None and on_host.serves(batch):
        return on_host(x, batch, first_only=first_only)
    mask = make_mask(batch.attention_mask, batch.input_ids.shape[1])
    for layer in layers[:-1]:
        x = layer(x, mask)
    return layers[-1].first(x, mask) if first_only else layers[-1](x, mask)


class _Scratch:
    """What the layers of one batch write to in turn."""

    def __init__(self, layer: "_Layer", tokens: int, longest: int) -> None:
        width = layer.width
        self.qkv = _empty(tokens, 3 * width)
        self.attended = _empty(tokens, width)
        self.sums = _empty(tokens, width)
        self.states = _empty(tokens, width)
        self.inner = _empty(tokens, layer.up.outputs)
        self.scores = _empty(layer.heads * longest * longest)
        self.score_sums = _empty(layer.heads * longest)
        rows = max(1, _CACHED // (4 * layer.up.outputs))
        self.parts = (_empty(rows, layer.up.outputs), _empty(rows, layer.up.outputs))


class _Linear:
    """A `PanelLinear`, for arrays of the host."""

    def __init__(self, layer: PanelLinear, multiply: Products) -> None:
        self.weight: Array = np.array(layer.weight, copy=False)
        self.bias: Array = np.array(layer.bias, copy=False)
        self.panels, self.inputs, self.panel = self.weight.shape
        self.outputs = self.panels * self.panel
        self._matrix = _address(self.weight), self.panel, self.inputs * self.panel
        self._multiply = multiply

    def __call__(self, x: Array, to: Array, *, add: bool = False) -> None:
        """Write `x @ weight.T` to an array, or add it; without the bias."""
        shape = len(x), self.panel, self.inputs
        self._multiply(shape, (_address(x), self.inputs, 0), self._matrix, (_address(to), self.outputs, self.panel),
                       self.panels, add=add)  # fmt: skip


@dataclass(frozen=True)
class _Norm:
    weight: Array
    bias: Array
    eps: float

    @classmethod
    def of(cls, layer: nn.LayerNorm) -> "_Norm":
        return cls(np.array(layer.weight, copy=False), np.array(layer.bias, copy=False), layer.eps)

    def __call__(self, x: Array, spare: Array, to: Array) -> None:
        """Write the norm of each row of `x` to an array, by way of another."""
        channels = x.shape[1]
        mean = np.add.reduce(x, axis=1, keepdims=True)
        mean *= np.float32(1 / channels)
        np.subtract(x, mean, out=spare)
        deviation = np.einsum("ij,ij->i", spare, spare)[:, None]
        deviation *= np.float32(1 / channels)
        deviation += np.float32(self.eps)
        np.sqrt(deviation, out=deviation)
        np.divide(spare, deviation, out=spare)
        np.multiply(spare, self.weight, out=spare)
        np.add(spare, self.bias, out=to)


class _Layer:
    """One layer."""

    def __init__(self, layer: PostNormLayer, multiply: Products) -> None:
        attention = layer.attention
        self.heads, self.head, self.scale = attention._heads, attention._head, attention._scale
        self.width = self.heads * self.head
        self.qkv, self.out = _Linear(attention.qkv, multiply), _Linear(attention.out, multiply)
        self.up, self.down = _Linear(layer.up, multiply), _Linear(layer.down, multiply)
        self.attention_norm, self.norm = _Norm.of(layer.attention_norm), _Norm.of(layer.norm)
        self.activate = _ACTIVATIONS[layer._activation]
        self._multiply = multiply
        self._ones = np.ones(cpu_kernels.LONG, np.float32)

    def __call__(self, x: Array, spans: list[tuple[int, int]], scratch: _Scratch, *, first_only: bool = False) -> Array:
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
        between = scratch.states[:count]  # perhaps where x was
        self.out(attended, sums, add=True)
        self.attention_norm(sums, attended, between)
        self.up(between, inner)
        self._activate(inner, scratch.parts)
        np.add(between, self.down.bias, out=sums)
        self.down(inner, sums, add=True)
        self.norm(sums, attended, between)
        return between

    def _attend(self, scratch: _Scratch, start: int, stop: int, place: int, queries: int) -> None:
        """Of one text's tokens: softmax(queries @ keys.T × scale) @ values, all heads, to `attended` at `place`."""
        keys, row = stop - start, 3 * self.width
        qkv = _address(scratch.qkv) + 4 * row * start
        scores = scratch.scores[: self.heads * queries * keys]
        by_head = _address(scores), keys, queries * keys
        self._multiply((queries, keys, self.head), (qkv, row, self.head), (qkv + 4 * self.width, row, self.head),
                       by_head, self.heads, transposed=True, scale=self.scale)  # fmt: skip
        table = scores.reshape(-1, keys)
        if not max(scores.max(), -scores.min()) < _SAFE_SCORE:
            np.subtract(table, table.max(axis=1, keepdims=True), out=table)
        np.exp(scores, out=scores)
        sums = scratch.score_sums[: len(table)]
        self._multiply((len(table), 1, keys), (by_head[0], keys, 0), (_address(self._ones), 1, 0),
                       (_address(sums), 1, 0))  # fmt: skip
        np.divide(table, sums[:, None], out=table)
        attended = _address(scratch.attended) + 4 * self.width * place
        self._multiply((queries, self.head, keys), by_head, (qkv + 8 * self.width, row, self.head),
                       (attended, self.width, self.head), self.heads)  # fmt: skip

    def _activate(self, inner: Array, parts: tuple[Array, Array]) -> None:
        """Add the bias and apply the activation, in place."""
        size = len(parts[0])
        for start in range(0, len(inner), size):
            part = inner[start : start + size]
            np.add(part, self.up.bias, out=part)
            self.activate(part, parts[0][: len(part)], parts[1][: len(part)])


def _gelu(x: Array, size: Array, power: Array) -> None:
    """`cpu_kernels.gelu` in place."""
    np.abs(x, out=size)
    _power(size, cpu_kernels.ERFC, 5, power)
    np.divide(size, power, out=power)
    np.add(x, size, out=x)
    np.subtract(x, power, out=x)
    np.multiply(x, np.float32(0.5), out=x)


def _gelu_tanh(x: Array, spare: Array, tanh: Array) -> None:
    """`x (1 + tanh(z / 2)) / 2` for the z of `cpu_kernels.gelu_tanh`, in place."""
    linear, cubic = cpu_kernels.TANH
    np.multiply(x, x, out=spare)
    np.multiply(spare, np.float32(cubic / 2), out=spare)
    np.add(spare, np.float32(linear / 2), out=spare)
    np.multiply(spare, x, out=spare)
    np.tanh(spare, out=tanh)
    np.add(tanh, np.float32(1), out=tanh)
    np.multiply(x, np.float32(0.5), out=x)
    np.multiply(x, tanh, out=x)


def _relu(x: Array, *spare: Array) -> None:
    np.maximum(x, np.float32(0), out=x)


_ACTIVATIONS: dict[Any, Callable[[Array, Array, Array], None]] = {
    activations.gelu: _gelu,
    activations.gelu_tanh: _gelu_tanh,
    nn.relu: _relu,
}


def _power(x: Array, coefficients: Sequence[float], squarings: int, to: Array) -> None:
    """`(1 + c₀x + c₁x² + …) ** (2 ** squarings)`."""
    np.multiply(x, np.float32(coefficients[-1]), out=to)
    for coefficient in coefficients[-2::-1]:
        np.add(to, np.float32(coefficient), out=to)
        np.multiply(to, x, out=to)
    np.add(to, np.float32(1), out=to)
    for _ in range(squarings):
        np.square(to, out=to)


def _empty(*shape: int) -> Array:
    return np.empty(shape, np.float32)


def _address(array: Array) -> int:
    return array.ctypes.data
