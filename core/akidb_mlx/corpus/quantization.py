"""The types of a file's vectors: those of `small_vectors`, with `binary` as files have had it since the first."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from akidb_mlx import small_vectors
from akidb_mlx.vectors import Embeddings

__all__ = ["OUTPUT_DTYPES", "calibrate", "check_output_dtype", "quantize"]

# In a file `binary` is what is `ubinary` elsewhere: plain bytes, as stores of bits want them.
_ELSEWHERE: Final = {"binary": "ubinary"}
OUTPUT_DTYPES: Final[Mapping[str, type[np.generic]]] = {**small_vectors.OUTPUT_DTYPES, "binary": np.uint8}
calibrate, check_output_dtype = small_vectors.calibrate, small_vectors.check_output_dtype


def quantize(vectors: Embeddings, output_dtype: str, calibration: Mapping[str, Any] | None = None) -> NDArray[Any]:
    """As `small_vectors.quantize`: rows, queries too, of the type that `--output-dtype` gives a file."""
    return small_vectors.quantize(vectors, _ELSEWHERE.get(output_dtype, output_dtype), calibration)
