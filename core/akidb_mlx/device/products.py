"""Products of float32 matrices in NumPy's memory by the tuned BLAS, on the calling thread, outside Python's lock."""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from akidb_mlx.device import blas

__all__ = ["AS_IT_IS", "ROWS", "TRANSPOSED", "Multiply", "Products", "one_by_one", "products"]

ROWS, AS_IT_IS, TRANSPOSED = 101, 111, 112
"""cblas.h's row-major order, and what is done to a matrix first."""
Multiply = Callable[..., None]
"""cblas_sgemm_batch_strided: (order, how a, how b, m, n, k, scale, a, its row, its step, b, its row, its step, beta, c,
its row, its step, count), `c = scale × a @ b + beta × c` for `count` products, each matrix a step behind the last.
Matrices are addresses, rows and steps count numbers."""
_PREFIXES = ("", "scipy_")
_INT, _FLOAT, _ADDRESS = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
# OpenBLAS's names of cores for which it has kernels that read small matrices where they lie: those with AVX-512.
_WITHOUT_PACKING = {"SkylakeX", "Cooperlake", "SapphireRapids"}


@dataclass(frozen=True)
class Products:
    """What a BLAS has."""

    multiply: Multiply
    packs: bool = True
    """Whether it copies both matrices of each product, however small, in the order in which it reads them."""


@functools.cache
def products() -> Products | None:
    """That of the BLAS that `blas.preload` found; None where MLX has one of its own, or the slow reference."""
    library = blas.library()
    if library is None:
        return None
    batch = _find(library, "cblas_sgemm_batch_strided", [_ADDRESS, _INT, _INT], [_INT])
    # Others may want matrices that lie apart, which heads side by side do not.
    if batch is None or not _core(library):
        return Products(one_by_one(_find(library, "cblas_sgemm", [_ADDRESS, _INT], [])))
    return Products(batch, packs=_core(library) not in _WITHOUT_PACKING)


def one_by_one(one: Callable[..., None]) -> Multiply:
    """The same by cblas_sgemm: an OpenBLAS before 0.3.30 has no other."""

    def multiply(
        order: int, how_a: int, how_b: int, m: int, n: int, k: int, scale: float,
        a: int, row_a: int, step_a: int, b: int, row_b: int, step_b: int, beta: float,
        c: int, row_c: int, step_c: int, count: int,
    ) -> None:  # fmt: skip
        for place in range(0, 4 * count, 4):
            at_a, at_b, at_c = a + place * step_a, b + place * step_b, c + place * step_c
            one(order, how_a, how_b, m, n, k, scale, at_a, row_a, at_b, row_b, beta, at_c, row_c)

    return multiply


def _core(library: ctypes.CDLL) -> str:
    """The core whose kernels an OpenBLAS took."""
    name = _named(library, "openblas_get_corename")
    if name is None:
        return ""
    name.restype = ctypes.c_char_p
    return str(name().decode())


def _find(library: ctypes.CDLL, name: str, matrix: list[Any], count: list[Any]) -> Any:
    function = _named(library, name)
    if function is not None:
        function.argtypes = [*[_INT] * 6, _FLOAT, *matrix, *matrix, _FLOAT, *matrix, *count]
        function.restype = None
    return function


def _named(library: ctypes.CDLL, name: str) -> Any:
    """A function of the library, or None; PyPI's has a prefix."""
    return next((found for prefix in _PREFIXES if (found := getattr(library, prefix + name, None))), None)
