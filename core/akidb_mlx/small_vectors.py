"""Smaller vectors: float16, int8 and uint8 by a scale, or a bit per dimension; and back. Pure NumPy.

Names and bits are those of sentence-transformers' `quantize_embeddings`, Cohere and Voyage.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from akidb_mlx.errors import ConfigError, InputError
from akidb_mlx.vectors import Embeddings

__all__ = [
    "FLOATS",
    "LARGEST",
    "OUTPUT_DTYPES",
    "Calibration",
    "OutputDtype",
    "OutputForm",
    "calibrate",
    "calibrate_on",
    "check_output_dtype",
    "dequantize",
    "needs_calibration",
    "quantize",
    "read_calibration",
]

OutputDtype = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
Calibration = Mapping[str, Any]
"""What turns numbers back into floats: `scale`, one for all dimensions, or `minimum` and `maximum` for each."""
OUTPUT_DTYPES: Final[Mapping[str, type[np.generic]]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}
"""Name → NumPy's type. Bits are packed by eight, the first dimension in the highest; `binary` is `ubinary` less 128."""
LARGEST: Final = {"float16": 65504.0}
"""What a type cannot hold is no number any more."""

_INT8_MAX, _ZERO, _STEPS = 127, 128, 255
_BITS, _BYTES = ("binary", "ubinary"), ("int8", "uint8")
_RANGE = ("minimum", "maximum")


@dataclass(frozen=True)
class OutputForm:
    """What numbers a call wants its vectors in."""

    dtype: OutputDtype = "float32"
    calibration: Calibration | None = None


FLOATS: Final = OutputForm()
"""float32, as rows are by themselves."""


def needs_calibration(output_dtype: str) -> bool:
    """Whether numbers of this type have a scale.

    Examples:
        >>> needs_calibration("int8"), needs_calibration("ubinary")
        (True, False)
    """
    return output_dtype in _BYTES


def check_output_dtype(output_dtype: str, dimension: int) -> None:
    """Raise ConfigError for an unknown type, or bits that do not fill bytes.

    Examples:
        >>> check_output_dtype("ubinary", 384)
    """
    if output_dtype not in OUTPUT_DTYPES:
        raise ConfigError(f"output_dtype is {output_dtype!r}; it may be {', '.join(OUTPUT_DTYPES)}")
    if output_dtype in _BITS and dimension % 8:
        raise ConfigError(
            f"output_dtype is {output_dtype}, but {dimension} dimensions do not fill bytes; set truncate_dim"
        )


def calibrate(output_dtype: str, largest: float, *, whole_numbers: bool = False) -> dict[str, Any]:
    """What turns numbers back into floats, from the largest magnitude of a whole corpus.

    int8, uint8: number = float / scale, rounded (uint8: plus 128). One scale for all dimensions, so that dot products
    and cosines of int8 numbers are those of the floats, up to a factor and rounding, in any store. Rows of
    `whole_numbers` (pplx-embed) are bytes already, whose zeros keep the sign of what was rounded.

    Examples:
        >>> calibrate("int8", 0.254)
        {'scale': 0.002}
    """
    if whole_numbers and output_dtype in _BITS:
        return {"zeros": "signed", "bit_order": "big"}
    if needs_calibration(output_dtype):
        return {"scale": 1.0 if whole_numbers else largest / _INT8_MAX or 1.0}
    return {"threshold": 0.0, "bit_order": "big"} if output_dtype in _BITS else {}


def calibrate_on(vectors: ArrayLike, *, by_dimension: bool = False) -> dict[str, Any]:
    """A calibration from (n, dimension) float rows of one's own data, the more the better.

    `by_dimension` takes each dimension's least and greatest number, as sentence-transformers' `ranges` do: finer steps,
    but products of such numbers mean nothing until `dequantize`.

    Raises:
        InputError: no rows, or numbers that are not finite.

    Examples:
        >>> calibrate_on([[0.1, -0.254], [0.2, 0.0]])["rows"]
        2
    """
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise InputError(f"a calibration needs rows of finite numbers, (n, dimension), not an array of {rows.shape}")
    told: dict[str, Any] = {"dimension": rows.shape[1], "rows": rows.shape[0]}
    if by_dimension:
        return told | {"minimum": rows.min(axis=0).tolist(), "maximum": rows.max(axis=0).tolist()}
    return told | calibrate("int8", float(np.abs(rows).max()))


def read_calibration(file: str | PathLike[str]) -> dict[str, Any]:
    """The calibration in a recipe (`OUT.parquet`, `OUT.meta.json`), or in a JSON file of its own.

    With the `fingerprint` and `dimension` of what made it, where the file has them.

    Raises:
        ConfigError: the file cannot be read, or holds none.

    Examples:
        >>> _ = Path("scale.json").write_text('{"scale": 0.002}')
        >>> read_calibration("scale.json")["scale"]
        0.002
    """
    path = Path(file)
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            text = (pq.read_schema(path).metadata or {})[b"akidb_mlx"]
        else:
            text = path.read_bytes()
        said = json.loads(text)
        found = said.get("calibration", said)
        about = {name: said[name] for name in ("fingerprint", "dimension") if name in said}
        calibration = {**about, **found, "file": str(path)}
        _limits(calibration)
    except (OSError, ImportError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} holds no calibration of int8 vectors ({error or type(error).__name__}); name an output of "
            '`akidb-mlx embed --output-dtype int8` (.parquet or .meta.json), or JSON such as {"scale": 0.002}'
        ) from None
    return calibration


def quantize(vectors: Embeddings, output_dtype: str, calibration: Calibration | None = None) -> NDArray[Any]:
    """(n, dimension) float32 rows as `output_dtype`; bits give (n, dimension / 8) bytes.

    For queries too: with the calibration of a file's recipe they match its vectors.

    Raises:
        ConfigError: no such type, no calibration for it, or one of another width.
        InputError: a number that float16 does not hold.

    Examples:
        >>> quantize(np.array([[0.1, -0.254]], np.float32), "int8", {"scale": 0.002})
        array([[  50, -127]], dtype=int8)
    """
    check_output_dtype(output_dtype, vectors.shape[1])
    if output_dtype in _BITS:
        signed = (calibration or {}).get("zeros") == "signed"
        bits = np.packbits(~np.signbit(vectors) if signed else vectors > 0, axis=1)
        return bits if output_dtype == "ubinary" else (bits ^ np.uint8(_ZERO)).view(np.int8)
    if output_dtype in _BYTES:
        numbers = _numbers(vectors, calibration or {})
        return numbers.astype(np.int8) if output_dtype == "int8" else (numbers + _ZERO).astype(np.uint8)
    if (largest := LARGEST.get(output_dtype)) is not None and (np.abs(vectors) > largest).any():
        row = int(np.argmax((np.abs(vectors) > largest).any(axis=1)))
        raise InputError(f"row {row} has a number beyond {output_dtype}; take float32")
    return vectors.astype(OUTPUT_DTYPES[output_dtype])


def dequantize(rows: NDArray[Any], output_dtype: str, calibration: Calibration | None = None) -> Embeddings:
    """Floats for stored rows: what a float query is compared with, to sort candidates again.

    Bits become 1 and -1; numbers with a range of their own the middle of their step.

    Examples:
        >>> dequantize(np.array([[50, -127]], np.int8), "int8", {"scale": 0.002}).round(3)
        array([[ 0.1  , -0.254]], dtype=float32)
    """
    check_output_dtype(output_dtype, 8)
    if output_dtype in _BITS:
        bits = rows.view(np.uint8) ^ np.uint8(_ZERO) if output_dtype == "binary" else rows
        return np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1
    if output_dtype not in _BYTES:
        return rows.astype(np.float32)
    numbers = rows.astype(np.float32) - (_ZERO if output_dtype == "uint8" else 0)
    start, step = _limits(calibration or {}, rows.shape[1])
    if start is None:
        return np.asarray(numbers * step, np.float32)
    floats: Embeddings = start + (numbers + _ZERO + np.float32(0.5)) * step
    return floats


def _numbers(vectors: Embeddings, calibration: Calibration) -> Embeddings:
    """Whole numbers from -128 to 127; without a range for each dimension from -127."""
    start, step = _limits(calibration, vectors.shape[1])
    if start is None:
        return np.asarray(np.clip(np.rint(vectors / step), -_INT8_MAX, _INT8_MAX), np.float32)
    numbers: Embeddings = np.clip(np.floor((vectors - start) / step), 0, _STEPS) - _ZERO
    return numbers


def _limits(calibration: Calibration, dimension: int | None = None) -> tuple[Embeddings | None, Any]:
    """Where numbers start (None: on both sides of zero), and what a step is; ConfigError where none is said."""
    made_of = calibration.get("dimension")
    if None not in (dimension, made_of) and dimension != made_of:
        raise ConfigError(f"the calibration was made of {made_of} dimensions, and these vectors have {dimension}")
    if "scale" in calibration:
        scale = float(calibration["scale"])
        if not 0 < scale < np.inf:
            raise ConfigError(f"the calibration's scale is {scale}, which is none")
        return None, scale
    if not calibration.keys() >= {*_RANGE}:
        raise ConfigError(
            "int8 and uint8 need a calibration: name an `embed --output-dtype int8` output as `calibration`, or "
            "calibrate_on vectors of your data"
        )
    least, most = (np.asarray(calibration[name], np.float32) for name in _RANGE)
    if least.ndim != 1 or least.shape != most.shape or dimension not in (None, len(least)) or (least > most).any():
        raise ConfigError(f"the calibration's ranges are of {least.shape}, for vectors of {dimension}")
    step = (most - least) / np.float32(_STEPS)
    return least, np.where(step == 0, np.float32(1), step)
