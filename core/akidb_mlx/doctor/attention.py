"""Every attention kernel, called as the models call it: head sizes × lengths × grouped keys × masks."""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.device.choice import Device
from akidb_mlx.doctor import exact
from akidb_mlx.doctor.findings import Case, Exact, relative_error
from akidb_mlx.doctor.kernels import in_float64, random
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.model.layers.attention import attend, attention_layer
from akidb_mlx.model.layers.masks import Mask, make_causal_mask, make_mask

__all__ = ["attentions", "block_attentions", "long_attentions"]

# Head sizes and lengths. Metal has kernels by head size, others for up to 8 queries, and tiles of 32 and 64; CUDA
# plans 16 bits for each shape anew (35 to 90 ms); the CPU has one kernel, slow in 16 bits.
_SHAPES = {
    "metal": ((32, 64, 80, 96, 128, 256), (3, 8, 9, 33, 65, 130)),
    "cuda": ((32, 64, 128, 256), (9, 130)),
    "cpu": ((32, 64), (3, 9, 65)),
}
_GROUPS = ((4, 4), (8, 2), (8, 1))  # (queries', keys' heads)
_WINDOW = 2
# From 1,024 or 2,048 tokens Metal fuses causal attention with heads of 256 too.
_LONG = ((128, 1100), (256, 1100), (256, 2100))
_BLOCKS, _BLOCKS_HEAD, _BLOCKS_WINDOW = 600, 32, 100  # tokens that the CPU computes in two blocks
_LAST = 40  # of a long text only the last queries are compared


@dataclass(frozen=True)
class _Mask:
    """One mask as the device gets it, and as float64 does."""

    name: str
    given: Mask
    seen: NDArray[np.bool_]
    added: Exact | float = 0.0


def attentions(dtype: str, device: Device) -> Iterator[Case]:
    """Three texts: one fills the length, the others are padded."""
    rng = np.random.default_rng(1)
    heads, lengths = _SHAPES[device.kind]
    for length in lengths:
        real = np.arange(length) < np.array([[length], [max(1, length // 2)], [1]])
        for count, kv_count in _GROUPS:
            masks = list(_masks(rng, real, count, dtype))
            for head in heads:
                given = _heads(rng, (3, length, head), (count, kv_count, kv_count), dtype)
                attended = [attend(*given, mask.given, head**-0.5) for mask in masks]
                queries, keys, values, *got = in_float64(*given, *attended)
                scores = exact.attention_scores(queries, keys, head**-0.5)
                for mask, ours in zip(masks, got, strict=True):
                    want = exact.attention(scores + mask.added, values, mask.seen)
                    # What the padding's own queries see is nobody's concern.
                    error = relative_error(ours.swapaxes(1, 2)[real], want.swapaxes(1, 2)[real])
                    where = f"heads of {head}, {length} tokens, {count}:{kv_count}, mask: {mask.name}"
                    yield Case(where, error, LIMITS[dtype].attention)


def long_attentions(dtype: str) -> Iterator[Case]:
    """Causal attention over more than a thousand tokens."""
    rng = np.random.default_rng(6)
    for head, length in _LONG:
        given = _heads(rng, (1, length, head), (2, 1, 1), dtype)
        attended = attend(*given, "causal", head**-0.5)[:, :, -_LAST:]
        queries, keys, values, got = in_float64(*given, attended)
        scores = exact.attention_scores(queries[:, :, -_LAST:], keys, head**-0.5)
        seen = np.arange(length) <= np.arange(length)[-_LAST:, None]
        error = relative_error(got, exact.attention(scores, values, seen))
        yield Case(f"heads of {head}, {length} tokens, causal", error, LIMITS[dtype].attention)


def block_attentions() -> Iterator[Case]:
    """Grouped keys over more tokens than the CPU computes at once, through what cuts a layer into blocks."""
    rng = np.random.default_rng(7)
    length, head, counts = _BLOCKS, _BLOCKS_HEAD, (4, 2, 2)
    x = random(rng, (1, length, sum(counts) * head), "float32")
    for mask in _block_masks(length):
        result = attention_layer(
            lambda block, first: _split(block.reshape(1, -1, sum(counts), head), counts),
            lambda block, attended: attended.swapaxes(1, 2),
            x,
            mask.given,
            head**-0.5,
        )
        queries, keys, values, got = in_float64(*_split(x.reshape(1, length, -1, head), counts), result)
        want = exact.attention(exact.attention_scores(queries, keys, head**-0.5), values, mask.seen)
        error = relative_error(got, want.swapaxes(1, 2))
        yield Case(f"heads of {head}, {length} tokens, 4:2, mask: {mask.name}", error, LIMITS["float32"].attention)


def _block_masks(length: int) -> Iterator[_Mask]:
    ahead = np.arange(length) - np.arange(length)[:, None]
    window = _BLOCKS_WINDOW
    yield _Mask("causal", "causal", ahead <= 0)
    yield _Mask("window", make_mask(None, length, window), np.abs(ahead) <= window)
    yield _Mask("causal window", make_causal_mask(length, window), (ahead <= 0) & (ahead > -window))


def _heads(
    rng: np.random.Generator, shape: tuple[int, int, int], counts: tuple[int, int, int], dtype: str
) -> tuple[mx.array, mx.array, mx.array]:
    """Queries, keys and values cut out of one product, as in the models; `shape` is rows, length, channels."""
    rows, length, channels = shape
    return _split(random(rng, (rows, length, sum(counts), channels), dtype), counts)


def _split(product: mx.array, counts: tuple[int, int, int]) -> tuple[mx.array, mx.array, mx.array]:
    """(rows, length, all heads, channels) → queries, keys and values as attention takes them."""
    queries, keys, values = mx.split(product.swapaxes(1, 2), (counts[0], counts[0] + counts[1]), axis=1)
    return queries, keys, values


def _masks(rng: np.random.Generator, real: NDArray[np.bool_], count: int, dtype: str) -> Iterator[_Mask]:
    """For texts whose tokens are `real`, (rows, length)."""
    length = real.shape[1]
    position = np.arange(length)
    everything = np.ones((length, length), bool)
    padding = real[:, None, None, :]
    near = np.abs(position[:, None] - position) <= _WINDOW
    causal = position <= position[:, None]
    itself = np.eye(length, dtype=bool)  # keeps a row of the padding's from being empty
    yield _Mask("none", None, everything)
    yield _Mask("padding", make_mask(mx.array(real), length), padding)
    yield _Mask("window and padding", make_mask(mx.array(real), length, _WINDOW), (near & padding) | itself)
    yield _Mask("causal", "causal", causal)
    yield _Mask("causal window", mx.array(causal & near), causal & near)
    added = random(rng, (1, count, length, length), dtype)
    bias = mx.where(mx.array(padding), added, mx.array(-mx.inf, added.dtype))
    yield _Mask("bias and padding", bias, padding, *in_float64(added))
