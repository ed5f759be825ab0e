"""The device's kernels, called as the models call them, against float64: each a generator of cases."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from akidb_mlx.device.choice import Device
from akidb_mlx.doctor import exact
from akidb_mlx.doctor.findings import Case, Exact, relative_error
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.model.heads.dense import ACTIVATIONS as DENSE_ACTIVATIONS
from akidb_mlx.model.heads.pooling import POOLING, pool
from akidb_mlx.model.layers import rope
from akidb_mlx.model.layers.activations import ACTIVATIONS
from akidb_mlx.model.layers.products import Product, add_product

__all__ = ["activations", "in_float64", "lookups", "norms", "pooling", "products", "random", "rotary", "sums"]

# (rows, terms, columns): one row, few and many, across tiles of 32, 64 and 256, and what fits none of them.
_PRODUCTS = ((1, 384, 384), (3, 1024, 64), (9, 384, 1536), (33, 1000, 72), (257, 768, 768), (64, 2048, 96))
_ROPE_BASES = (10_000.0, 1_000_000.0)
_WIDTH = 300
_CHOSEN = [[3, 1], [6, 0]]
# Name → what the device computes, and what it should.
Pairs = Mapping[str, tuple[Callable[[mx.array], mx.array], Callable[[Exact], Any]]]


def random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> mx.array:
    """Normal numbers, rounded to `dtype`."""
    values = (rng.standard_normal(shape) * scale).astype(np.float32)
    return mx.array(values).astype(getattr(mx, dtype))


def in_float64(*arrays: mx.array) -> list[Exact]:
    """The same numbers, all computed at once: CUDA keeps a graph for each kind of computation, and few of them."""
    together = [array.astype(mx.float32) for array in arrays]
    mx.eval(together)
    return [np.array(array).astype(np.float64) for array in together]


def products(dtype: str) -> Iterator[Case]:
    """Linear layers with and without bias, and one whose product is added to as much as it gives."""
    rng = np.random.default_rng(0)
    for rows, terms, columns in _PRODUCTS:
        given = [random(rng, shape, dtype) for shape in ((rows, terms), (columns, terms), (columns,))]
        plain, biased = nn.Linear(terms, columns, bias=False), nn.Linear(terms, columns)
        plain.update({"weight": given[1]})
        biased.update({"weight": given[1], "bias": given[2]})
        residual = random(np.random.default_rng(columns), (rows, columns), dtype)
        added = add_product(residual, Product.of(plain), given[0])
        x, weight, bias, sums, *got = in_float64(*given, residual, plain(given[0]), biased(given[0]), added)
        want = x @ weight.T
        wanted = (want, want + bias, want + sums)
        error = max(relative_error(ours, exactly) for ours, exactly in zip(got, wanted, strict=True))
        yield Case(f"{rows} × {terms} × {columns}", error, LIMITS[dtype].products)


def rotary(length: int) -> Iterator[Case]:
    """Rotary positions up to `length`: halves and interleaved, of all channels and of some."""
    rng = np.random.default_rng(2)
    kinds = [(base, dims, by_pairs) for base in _ROPE_BASES for dims in (64, 32) for by_pairs in (False, True)]
    for dtype, limits in LIMITS.items():
        heads = random(rng, (1, length, 2, 64), dtype).swapaxes(1, 2)[:, :1]  # a view, as queries are of one product
        turned = []
        for base, dims, by_pairs in kinds:
            settings = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": dims / 64}
            turned.append(rope.make_rope(64, settings, interleaved=by_pairs)(heads))
        x, *got = in_float64(heads, *turned)
        for (base, dims, by_pairs), ours in zip(kinds, got, strict=True):
            error = relative_error(ours, exact.rotary(x, base, dims, interleaved=by_pairs))
            where = f"{dtype}, base {base:g}, {dims} of 64 channels{', interleaved' if by_pairs else ''}"
            yield Case(where, error, limits.rotary)


def activations(device: Device) -> Iterator[Case]:
    """All that checkpoints may name, of backbones and of Dense layers."""
    # On a CPU MLX compiles each for each dtype with a C++ compiler, on CUDA for 5 seconds.
    dtypes = tuple(LIMITS) if device.kind == "metal" else ("float32",)
    named = {f"Dense's {name}": (name, act) for name, act in DENSE_ACTIVATIONS.items()}
    named |= {name: (name, act) for name, act in ACTIVATIONS.items()}
    return _compared({shown: (act, exact.ACTIVATIONS[name]) for shown, (name, act) in named.items()}, dtypes)


def norms() -> Iterator[Case]:
    """Layer norm with and without bias, RMS norm."""
    rng = np.random.default_rng(4)
    for dtype in LIMITS:
        weight, bias = random(rng, (_WIDTH,), dtype), random(rng, (_WIDTH,), dtype)
        w, b = in_float64(weight, bias)
        biased, plain, rms = nn.LayerNorm(_WIDTH, 1e-12), nn.LayerNorm(_WIDTH, 1e-5, bias=False), nn.RMSNorm(_WIDTH)
        biased.update({"weight": weight, "bias": bias})
        plain.update({"weight": weight})
        rms.update({"weight": weight})
        pairs: Pairs = {
            "layer norm": (biased, partial(exact.layer_norm, weight=w, bias=b, eps=1e-12)),
            "layer norm without bias": (plain, partial(exact.layer_norm, weight=w, bias=0.0, eps=1e-5)),
            "RMS norm": (rms, partial(exact.rms_norm, weight=w, eps=1e-5)),
        }
        yield from _compared(pairs, (dtype,))


def sums() -> Iterator[Case]:
    """Softmax and sums along a row."""
    return _compared(
        {
            "softmax": (lambda x: mx.softmax(x, axis=-1, precise=True), exact.softmax),
            "sum": (lambda x: x.astype(mx.float32).sum(axis=-1), lambda x: x.sum(axis=-1)),
        }
    )


def lookups() -> Iterator[Case]:
    """Rows by number, counting, choosing."""
    return _compared(
        {
            "rows by number": (lambda x: x[mx.array(_CHOSEN)], lambda x: x[np.array(_CHOSEN)]),
            "counting": (lambda x: mx.cumsum((x > 0).astype(mx.int32), axis=1), lambda x: np.cumsum(x > 0, axis=1)),
            "choosing": (lambda x: mx.where(x > 0, x, -1.0), lambda x: np.where(x > 0, x, -1.0)),
            "largest": (lambda x: x.max(axis=1), lambda x: x.max(axis=1)),
        }
    )


def pooling() -> Iterator[Case]:
    """Each mode over texts of several lengths, padded with numbers that must not count."""
    rng = np.random.default_rng(5)
    lengths = [1, 8, 9, 33]
    for dtype, limits in LIMITS.items():
        given = random(rng, (len(lengths), max(lengths), 130), dtype)
        starts = np.zeros(len(lengths), np.int32)
        pooled = [pool(given, np.array(lengths, np.int32), starts, [mode]) for mode in POOLING]
        hidden, *got = in_float64(given, *pooled)
        for mode, ours in zip(POOLING, got, strict=True):
            texts = [row[:length] for row, length in zip(hidden, lengths, strict=True)]
            want = np.stack([exact.POOLING[mode](text) for text in texts])
            yield Case(f"{mode}, {dtype}", relative_error(ours, want), limits.elementwise)


def _compared(pairs: Pairs, dtypes: tuple[str, ...] = tuple(LIMITS)) -> Iterator[Case]:
    for dtype in dtypes:
        given = random(np.random.default_rng(3), (7, _WIDTH), dtype, scale=3.0)
        x, *got = in_float64(given, *(compute(given) for compute, _ in pairs.values()))
        for (name, (_, exactly)), ours in zip(pairs.items(), got, strict=True):
            yield Case(f"{name}, {dtype}", relative_error(ours, exactly(x)), LIMITS[dtype].elementwise)
