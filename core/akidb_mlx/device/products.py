"""Products of float32 matrices of NumPy's memory by the tuned BLAS, on the calling thread, outside Python's lock."""

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

from akidb_mlx.device import blas

__all__ = ["Products", "products"]

_ROWS, _AS_IT_IS, _TRANSPOSED = 101, 111, 112  # cblas.h: row-major, and what is done to a matrix first
_PREFIXES = ("", "scipy_")
_INT, _FLOAT, _ADDRESS = ctypes.c_int, ctypes.c_float, ctypes.c_void_p


@dataclass(frozen=True)
class Products:
    """`count` products at a time, each matrix so many numbers behind the one before."""

    one: Any
    """cblas_sgemm."""
    batch: Any = None
    """cblas_sgemm_batch_strided; an OpenBLAS before 0.3.30 has none."""

    def __call__(
        self,
        shape: tuple[int, int, int],
        a: tuple[int, int, int],
        b: tuple[int, int, int],
        c: tuple[int, int, int],
        count: int = 1,
        *,
        transposed: bool = False,
        scale: float = 1.0,
        add: bool = False,
    ) -> None:
        """`c = scale × a @ b`, of shapes (m, k), (k, n) → (m, n), or `c += …` with `add`; `transposed`: b is (n, k).

        Each of a, b and c is the address of the first one's first number, numbers from row to row, and from one to the
        next.
        """
        m, n, k = shape
        how = _TRANSPOSED if transposed else _AS_IT_IS
        beta = 1.0 if add else 0.0
        if self.batch is not None:
            self.batch(_ROWS, _AS_IT_IS, how, m, n, k, scale, *a, *b, beta, *c, count)
            return
        for place in range(count):
            first, second, result = (matrix[0] + 4 * matrix[2] * place for matrix in (a, b, c))
            self.one(_ROWS, _AS_IT_IS, how, m, n, k, scale, first, a[1], second, b[1], beta, result, c[1])


@functools.cache
def products() -> Products | None:
    """Those of the BLAS that `blas.preload` found; None where MLX has one of its own, or the slow reference."""
    library = blas.library()
    one = None if library is None else _find(library, "cblas_sgemm", 13)
    return None if one is None else Products(one, _find(library, "cblas_sgemm_batch_strided", 17))


def _find(library: ctypes.CDLL | None, name: str, arguments: int) -> Any:
    function = next((found for prefix in _PREFIXES if (found := getattr(library, prefix + name, None))), None)
    if function is not None:
        matrix = [_ADDRESS, _INT] if arguments == 13 else [_ADDRESS, _INT, _INT]
        count = [] if arguments == 13 else [_INT]
        function.argtypes = [*[_INT] * 6, _FLOAT, *matrix, *matrix, _FLOAT, *matrix, *count]
        function.restype = None
    return function
