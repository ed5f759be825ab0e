"""Smaller vectors: float16, int8 by one scale for the whole corpus, or a bit a dimension. Pure NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import ConfigError
from akidb_mlx.vectors import Embeddings

__all__ = ["LARGEST", "OUTPUT_DTYPES", "calibrate", "check_output_dtype", "quantize"]

# Name → NumPy's type in the file; binary packs eight dimensions into a byte, the first in the highest bit.
OUTPUT_DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8, "binary": np.uint8}
_INT8_MAX = 127
# What a type cannot hold is no number any more.
LARGEST = {"float16": 65504.0}


def check_output_dtype(output_dtype: str, dimension: int) -> None:
    """Raise ConfigError for an unknown type, or bits that do not fill bytes."""
    if output_dtype not in OUTPUT_DTYPES:
        raise ConfigError(f"output_dtype is {output_dtype!r}; it may be {', '.join(OUTPUT_DTYPES)}")
    if output_dtype == "binary" and dimension % 8:
        raise ConfigError(f"output_dtype is binary, but {dimension} dimensions do not fill bytes; set truncate_dim")


def calibrate(output_dtype: str, largest: float, *, whole_numbers: bool = False) -> dict[str, Any]:
    """What turns numbers back into floats, from the largest magnitude of the whole corpus.

    int8: number = float / scale, rounded. One scale for all dimensions, so that dot products and cosines of
    the bytes are those of the floats, up to a factor and rounding, in any store. Rows of `whole_numbers` (pplx-embed)
    are bytes already, whose zeros keep the sign of what was rounded.
    """
    if whole_numbers and output_dtype in ("int8", "binary"):
        return {"scale": 1.0} if output_dtype == "int8" else {"zeros": "signed", "bit_order": "big"}
    if output_dtype == "int8":
        return {"scale": largest / _INT8_MAX or 1.0}
    return {"threshold": 0.0, "bit_order": "big"} if output_dtype == "binary" else {}


def quantize(vectors: Embeddings, output_dtype: str, calibration: Mapping[str, Any]) -> NDArray[Any]:
    """(n, dimension) float32 rows as `output_dtype`; binary gives (n, dimension / 8) bytes.

    For queries too: with the calibration in a file's recipe they match its vectors.
    """
    check_output_dtype(output_dtype, vectors.shape[1])
    if output_dtype == "int8":
        numbers: NDArray[Any] = np.clip(np.rint(vectors / calibration["scale"]), -_INT8_MAX, _INT8_MAX)
        return numbers.astype(np.int8)
    if output_dtype == "binary":
        return np.packbits(~np.signbit(vectors) if calibration.get("zeros") == "signed" else vectors > 0, axis=1)
    return vectors.astype(OUTPUT_DTYPES[output_dtype])
