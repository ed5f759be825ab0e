"""Weights: read, cast, filled in strictly."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.checkpoint.torch_zip import is_torch_file, read_torch_arrays
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Weights", "cast_weights", "fill", "read_weights"]

Weights = dict[str, mx.array]

_DTYPES = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "I8": mx.int8,
    "U16": mx.uint16,
    "I16": mx.int16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "U64": mx.uint64,
    "I64": mx.int64,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "F32": mx.float32,
}
# Floats that MLX does not load; they become float32, which holds each of their numbers, or the nearest (F64).
_TO_FLOAT32 = ("F64", "F8_E4M3", "F8_E5M2")

_is_child = False


def _after_fork() -> None:
    global _is_child
    _is_child = True


os.register_at_fork(after_in_child=_after_fork)


def read_weights(files: Sequence[Path]) -> Weights:
    """All tensors; those of safetensors are read when they are first used."""
    weights: Weights = {}
    for file in files:
        if is_torch_file(file):
            weights.update(_read_torch(file))
            continue
        header = read_header(file)  # says plainly what is wrong with a torn file
        kinds = {str(tensor["dtype"]): name for name, tensor in header.items()}
        for kind in kinds.keys() - _DTYPES.keys() - set(_TO_FLOAT32):
            raise UnsupportedModelError(
                f"{file}: {kinds[kind]} is stored as {kind}, which is not read here; take a checkpoint in float32, "
                "float16 or bfloat16, or an MLX conversion"
            )
        plain = _is_child or not kinds.keys().isdisjoint(_TO_FLOAT32)
        try:
            loaded = _read_plainly(file) if plain else mx.load(str(file), format="safetensors")
        except Exception as error:  # MLX raises RuntimeError and ValueError
            raise CheckpointError(f"{file} cannot be loaded ({error})") from None
        assert isinstance(loaded, dict)
        weights.update(loaded)
    return weights


def _read_torch(file: Path) -> Weights:
    weights: Weights = {}
    for names, dtype, array in read_torch_arrays(file):
        if dtype == "F64":  # GPUs have none; torch rounds it to a float32 model's dtype as well
            dtype, array = "F32", array.astype(np.float32)
        kind = _DTYPES[dtype]
        values = mx.array(array)
        if values.dtype != kind:
            values = values.astype(kind) if dtype == "BOOL" else values.view(kind)
        weights.update(dict.fromkeys(names, values))
    return weights


def _read_plainly(file: Path) -> Weights:
    """As `mx.load`, also of the dtypes that it refuses, and without MLX's threads for reading.

    A forked child lacks these: it would wait for ever.
    """
    data = np.memmap(file, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    weights: Weights = {}
    for name, tensor in read_header(file).items():
        first, last = tensor["data_offsets"]
        values = _values(data[start + first : start + last], tensor["dtype"])
        weights[name] = values.reshape(tensor["shape"])
    return weights


def _values(raw: NDArray[np.uint8], kind: str) -> mx.array:
    if kind == "F64":  # GPUs have none
        return mx.array(raw.view(np.float64).astype(np.float32))
    if kind == "F8_E5M2":  # the upper half of a float16
        return mx.array((raw.astype(np.uint16) << 8).view(np.float16).astype(np.float32))
    if kind == "F8_E4M3":
        return mx.array(_E4M3[raw])
    return mx.array(raw).view(_DTYPES[kind])


def _e4m3() -> NDArray[np.float32]:
    """The number of each byte: sign, four bits of exponent with bias 7, three of mantissa; no infinity (OCP, 2023)."""
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return np.where(byte & 127 == 127, np.nan, np.where(byte > 127, -size, size)).astype(np.float32)


_E4M3 = _e4m3()


def cast_weights(weights: Weights, dtype: mx.Dtype, in_float32: Collection[str] = ()) -> Weights:
    """Floats in the dtype to compute in, the scales of quantised weights among them; packed numbers are integers.

    `in_float32`: names of those that stay so whatever the dtype.
    """
    return {
        key: weight.astype(mx.float32 if key in in_float32 else dtype) if _is_float(weight) else weight
        for key, weight in weights.items()
    }


def fill(module: nn.Module, weights: Weights, file: Path) -> None:
    """Fill all parameters of `module`; an error names what is missing, left over or of another shape."""
    wanted = dict(tree_flatten(module.parameters()))
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        raise CheckpointError(f"{file} lacks {_some(missing)}; the checkpoint is incomplete or of another kind")
    extra = sorted(weights.keys() - wanted.keys())
    if extra:
        raise UnsupportedModelError(
            f"{file} has weights that this architecture does not use: {_some(extra)}; its vectors might be wrong"
        )
    for key, weight in weights.items():
        if weight.shape != wanted[key].shape:
            raise CheckpointError(f"{file}: {key} has shape {weight.shape}; config.json wants {wanted[key].shape}")
        if _is_float(wanted[key]) and not _is_float(weight):
            raise UnsupportedModelError(
                f"{file}: {key} is stored as {str(weight.dtype).removeprefix('mlx.core.')}, where floats are wanted; "
                "take a checkpoint in float32, float16 or bfloat16"
            )
    module.load_weights(list(weights.items()))


def _is_float(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.floating))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
