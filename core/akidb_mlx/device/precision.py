"""Is a float32 product computed in float32? GPUs may round its operands to TF32's 10 bits, unless told not to."""

import numpy as np

__all__ = ["FLOAT32_ERROR", "describe_error", "float32_error"]

FLOAT32_ERROR = 1e-5
"""Most that `float32_error` may be: the sums' rounding makes less than 1e-6, TF32 about 3e-4."""
_TF32_ERROR = 2e-3  # what is beyond was rounded to bfloat16's 7 bits, or is wrong
_ROWS, _TERMS, _COLUMNS = 128, 256, 128  # many rows: one alone is exact on some GPUs
_COMPARED = slice(None, None, 16)


def float32_error() -> float:
    """Measure a product of float32 matrices where the calling thread computes: largest error by largest number.

    It takes some milliseconds, and the device's own start where this is its first product.
    """
    import mlx.core as mx

    rng = np.random.default_rng(0)
    a = rng.standard_normal((_ROWS, _TERMS)).astype(np.float32)
    b = rng.standard_normal((_TERMS, _COLUMNS)).astype(np.float32)
    exact = a[_COMPARED].astype(np.float64) @ b.astype(np.float64)
    found = np.array(mx.array(a) @ mx.array(b))[_COMPARED]
    error = float(np.abs(found - exact).max() / np.abs(exact).max())
    return error if np.isfinite(error) else np.inf


def describe_error(error: float) -> str:
    """Say in words which precision an error of `float32_error`'s kind stands for."""
    if error <= FLOAT32_ERROR:
        return "float32 is float32"
    if error <= _TF32_ERROR:
        return "float32 is computed as TF32 (10 bits): set MLX_ENABLE_TF32=0 before MLX is first used"
    return "float32 products are wrong, or computed in fewer bits than TF32's"
