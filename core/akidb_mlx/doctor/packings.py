"""Every packing of quantised weights: our layers over random packed numbers, against what NumPy unpacks of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.device.choice import Device
from akidb_mlx.doctor.findings import Case, Exact, relative_error
from akidb_mlx.doctor.kernels import in_float64, random
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.model.quantization import PACKINGS, dequantize, quantize_modules

__all__ = ["kept_packed", "unpacked"]

_FILE = Path("probe/config.json")
_COLUMNS, _TERMS = 160, 256
# Kernels for one row, for a few, and for tiles. MLX compiles CUDA's for tiles when they are first used, for 20 seconds
# each, and there are a hundred of them for all packings.
_ROWS = {"metal": (1, 5, 9, 70), "cuda": (1, 5), "cpu": (1, 5, 9, 70)}
_LOOKED_UP = [[3, 0], [159, 77]]


@dataclass(frozen=True)
class _Packed:
    """One matrix of (columns, terms) as files hold it, and what it stands for."""

    weights: dict[str, mx.array]
    exact: Exact


class _Layers(nn.Module):
    """A linear layer and a table, to be quantised."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(_TERMS, _COLUMNS, bias=False)
        self.table = nn.Embedding(_COLUMNS, _TERMS)


def _computed(device: Device) -> Iterator[tuple[str, int, int]]:
    """The packings that are computed on the device; MLX has no kernels for 1 bit on CUDA, and loading refuses it."""
    return ((mode, bits, size) for mode, bits, size in PACKINGS if device.kind != "cuda" or bits > 1)


def kept_packed(dtype: str, device: Device) -> Iterator[Case]:
    """Products with packed weights and rows looked up in a packed table, as GPUs compute them."""
    rng = np.random.default_rng(7)
    rows_each = _ROWS[device.kind]
    for mode, bits, group_size in _computed(device):
        packed = _pack(rng, mode, bits, group_size, dtype)
        layers = _Layers()
        weights = {f"{name}.{key}": part for name in ("linear", "table") for key, part in packed.weights.items()}
        quantize_modules(layers, weights, _FILE, getattr(mx, dtype))
        layers.load_weights(list(weights.items()))
        given = [random(rng, (rows, _TERMS), dtype) for rows in rows_each]
        outputs = in_float64(*given, *map(layers.linear, given), layers.table(mx.array(_LOOKED_UP)))
        wanted = [x @ packed.exact.T for x in outputs[: len(rows_each)]] + [packed.exact[_LOOKED_UP]]
        names = [*(f"{rows} rows" for rows in rows_each), "looked up"]
        for name, ours, want in zip(names, outputs[len(rows_each) :], wanted, strict=True):
            where = f"{mode} {bits} bit, groups of {group_size}, {name}"
            yield Case(where, relative_error(ours, want), LIMITS[dtype].packed)


def unpacked(device: Device) -> Iterator[Case]:
    """Floats made of packed weights when they are loaded, as on the CPU and in Dense layers."""
    rng = np.random.default_rng(8)
    for mode, bits, group_size in _computed(device):
        packed = _pack(rng, mode, bits, group_size, "bfloat16")
        weights = dequantize(_Layers(), {f"linear.{key}": part for key, part in packed.weights.items()}, _FILE)
        (ours,) = in_float64(weights["linear.weight"])
        error = relative_error(ours, packed.exact)
        yield Case(f"{mode} {bits} bit, groups of {group_size}", error, LIMITS["float32"].packed)


def _pack(rng: np.random.Generator, mode: str, bits: int, group_size: int, dtype: str) -> _Packed:
    """Random numbers of `bits` bits, with random scales for each group."""
    words = rng.integers(0, 2**32, (_COLUMNS, _TERMS * bits // 32), dtype=np.uint32)
    groups = (_COLUMNS, _TERMS // group_size)
    if mode == "affine":
        factors, biases = (random(rng, groups, dtype, scale) for scale in (2.0**-bits, 0.5))
        by, plus = (np.repeat(part, group_size, axis=1) for part in in_float64(factors, biases))
        return _Packed(
            {"weight": mx.array(words), "scales": factors, "biases": biases}, _numbers(words, bits) * by + plus
        )
    form = _FORMS[mode]
    bytes_ = words.view(np.uint8)
    bytes_[bytes_ % 128 == 127] -= 1  # stands for NaN in mxfp8
    scales = rng.integers(*form.scales, groups, dtype=np.uint8)
    by = np.repeat(form.read_scales(scales), group_size, axis=1)
    return _Packed(
        {"weight": mx.array(words), "scales": mx.array(scales)}, form.read_numbers(_numbers(words, bits)) * by
    )


def _numbers(words: NDArray[np.uint32], bits: int) -> NDArray[np.int64]:
    """Unsigned integers that stand in a row's words one after the other, least bits first."""
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return stream.reshape(len(words), -1, bits).astype(np.int64) @ (1 << np.arange(bits))


def _e4m3(numbers: NDArray[Any]) -> Exact:
    """Bytes as floats of a sign, four bits of exponent and three of mantissa."""
    numbers = numbers.astype(np.int64)
    exponent, mantissa = numbers // 8 % 16, numbers % 8
    size = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return np.where(numbers < 128, size, -size)


def _e2m1(numbers: NDArray[Any]) -> Exact:
    """Four bits as floats of a sign, two bits of exponent and one of mantissa."""
    return np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[numbers % 8] * np.where(numbers < 8, 1, -1)


def _e8m0(numbers: NDArray[Any]) -> Exact:
    """Bytes as powers of two."""
    return 2.0 ** (numbers.astype(np.float64) - 127)


@dataclass(frozen=True)
class _Form:
    """What the numbers and the scales of a mode mean (Open Compute's MX formats, NVIDIA's NVFP4)."""

    read_numbers: Callable[[NDArray[Any]], Exact]
    read_scales: Callable[[NDArray[Any]], Exact]
    scales: tuple[int, int]
    """Bytes that stand for scales about 1."""


_FORMS = {
    "mxfp4": _Form(_e2m1, _e8m0, (120, 130)),
    "mxfp8": _Form(_e4m3, _e8m0, (120, 130)),
    "nvfp4": _Form(_e2m1, _e4m3, (40, 72)),
}
