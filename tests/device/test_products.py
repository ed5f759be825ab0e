"""The products that a BLAS has, and what they give."""

import numpy as np
import pytest

from akidb_mlx.device import blas
from akidb_mlx.device.products import AS_IT_IS, ROWS, TRANSPOSED, products


class Function:
    """What ctypes has for a function of a library."""

    def __init__(self, gives=None):
        self.gives = gives
        self.calls = []

    def __call__(self, *arguments):
        self.calls.append(arguments)
        return self.gives


class Library:
    """Some of an OpenBLAS's functions."""

    def __init__(self, **functions):
        self.__dict__ |= functions


@pytest.fixture(autouse=True)
def found_anew():
    products.cache_clear()
    yield
    products.cache_clear()


@pytest.mark.parametrize(("core", "packs"), [(b"SkylakeX", False), (b"Cooperlake", False), (b"Zen", True)])
def test_kernels_without_packing_are_those_for_avx_512(monkeypatch, core, packs):
    library = Library(
        cblas_sgemm=Function(),
        scipy_cblas_sgemm_batch_strided=Function(),
        scipy_openblas_get_corename=Function(core),
    )
    monkeypatch.setattr(blas, "library", lambda: library)
    found = products()
    assert (found.multiply, found.packs) == (library.scipy_cblas_sgemm_batch_strided, packs)


def test_an_openblas_without_batches(monkeypatch):
    library = Library(cblas_sgemm=Function(), openblas_get_corename=Function(b"SkylakeX"))
    monkeypatch.setattr(blas, "library", lambda: library)
    found = products()
    assert found.packs
    found.multiply(ROWS, AS_IT_IS, AS_IT_IS, 2, 3, 4, 1.0, 1000, 4, 8, 2000, 3, 12, 0.0, 3000, 3, 6, 2)
    places = [(call[7], call[9], call[12]) for call in library.cblas_sgemm.calls]
    assert places == [(1000, 2000, 3000), (1000 + 32, 2000 + 48, 3000 + 24)]


def test_no_library(monkeypatch):
    monkeypatch.setattr(blas, "library", lambda: None)
    assert products() is None


@pytest.mark.parametrize("how", [AS_IT_IS, TRANSPOSED])
def test_several_products_at_once(how):
    found = products()
    if found is None:
        pytest.skip("no tuned BLAS was loaded for MLX's CPU build")
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 5, 8)).astype(np.float32), rng.standard_normal((3, 8, 7)).astype(np.float32)
    c = np.ones((3, 5, 7), np.float32)
    second = b if how == AS_IT_IS else np.ascontiguousarray(b.swapaxes(1, 2))
    row = second.shape[2]
    at_a, at_b, at_c = (array.ctypes.data for array in (a, second, c))
    found.multiply(ROWS, AS_IT_IS, how, 5, 7, 8, 2.0, at_a, 8, 40, at_b, row, 56, 1.0, at_c, 7, 35, 3)
    expected = 1 + 2 * (a.astype(np.float64) @ b)
    assert np.abs(c - expected).max() < 1e-5
