"""A call of any size is cut into parts that cover it, and these into pieces within a number of tokens."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akidb_mlx.model.encoding import Encoding
from akidb_mlx.pipeline.parts import PartEncoder, pieces


def places(count, lanes, kind="cpu"):
    loaded = SimpleNamespace(recipe=SimpleNamespace(device=SimpleNamespace(kind=kind)))
    return PartEncoder(loaded, None).places(count, lanes)


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from(["cpu", "cuda", "metal"]))
def test_parts_cover_a_call_in_order(count, lanes, kind):
    assert [place for part in places(count, lanes, kind) for place in part] == list(range(count))


@pytest.mark.parametrize(
    ("count", "lanes", "sizes"),
    [
        (0, 2, []),
        (256, 2, [256]),  # one part where it is enough
        (257, 2, [128, 129]),
        (1000, 2, [128, 256, 256, 256, 104]),  # the first is small, so that the device starts early
        (1000, 4, [128, 250, 250, 250, 122]),  # some for each who cuts
    ],
)
def test_the_sizes_of_parts(count, lanes, sizes):
    assert [len(part) for part in places(count, lanes)] == sizes


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
def test_pieces_have_all_rows_once_and_no_more_tokens_than_they_may(lengths, most):
    encodings = [Encoding(np.full(length, place, np.int32)) for place, length in enumerate(lengths)]
    found = list(pieces(encodings, most))
    assert [one for piece in found for one in piece] == encodings
    assert all(len(piece) == 1 or sum(map(len, piece)) <= most for piece in found)
    for piece, after in itertools.pairwise(found):
        assert sum(map(len, piece)) + len(after[0]) > most  # no piece ends early
