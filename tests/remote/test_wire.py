"""Rows as bytes: what is packed comes out, bit by bit; what does not fit is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import array_shapes, arrays, integer_dtypes

from akidb_mlx import MultiVectors, SparseRows, errors, wire

DTYPES = some.sampled_from(["float16", "float32", "int32", "int64", "uint8"])


@given(some.lists(arrays(DTYPES, array_shapes(min_dims=0, max_dims=3, min_side=0)), min_size=1, max_size=4))
def test_what_is_packed_comes_out(given_arrays):
    named = {f"a{place}": one for place, one in enumerate(given_arrays)}
    described, body = wire.pack(named)
    out = wire.unpack(described, body)
    assert list(out) == list(named)
    for name, one in named.items():
        assert (out[name].dtype, out[name].shape) == (one.dtype, one.shape)
        assert out[name].tobytes() == one.tobytes()  # NaN and -0 too


@given(arrays(integer_dtypes(endianness=">", sizes=(32, 64)), 3))
def test_numbers_are_little_endian_whatever_they_were(one):
    _, body = wire.pack({"a": one})
    assert body == one.astype(one.dtype.newbyteorder("<")).tobytes()


def test_rows_of_every_form_have_names():
    dense = np.ones((2, 3), np.float32)
    described, body = wire.pack(wire.arrays_of(dense))
    assert (described, len(body)) == ("rows float32 2 3", 24)
    sparse = SparseRows.of([(np.array([1], np.int32), np.array([2.0], np.float32)), None], 9)
    assert wire.pack(wire.arrays_of(sparse))[0] == "indptr int64 3; indices int32 1; values float32 1"
    multi = MultiVectors.of([dense.astype(np.float16)], 3)
    assert wire.pack(wire.arrays_of(multi))[0] == "vectors float16 2 3; offsets int64 2"


@pytest.mark.parametrize(
    "described",
    [
        "rows float32 2 2",
        "rows float32 4",
        "rows float64 1",
        "rows object 3",
        "rows float32 -3",
        "rows",
        "",
        "a float32 3; b",
    ],
)
def test_what_does_not_fit_is_refused(described):
    with pytest.raises((errors.InputError, ValueError)):
        wire.unpack(described, np.ones(3, np.float32).tobytes())
