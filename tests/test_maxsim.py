"""MaxSim by hand, against a plain loop, and block by block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akidb_mlx import maxsim as module
from akidb_mlx.errors import InputError
from akidb_mlx.maxsim import EMPTY_DOCUMENT, TokenPair, maxsim, maxsim_pairs, token_pairs
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.pipeline import device_maxsim as on_device
from support.comparison import assert_close
from support.device import DEVICE

WIDTH = 3


def rows(*texts, dtype=np.float32):
    return MultiVectors.of([np.array(text, dtype).reshape(-1, 2) for text in texts], 2)


def drawn(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return MultiVectors.of([generator.standard_normal((n, WIDTH)).astype(np.float32) for n in lengths], WIDTH)


def plainly(queries, documents):
    scores = np.full((len(queries), len(documents)), EMPTY_DOCUMENT, np.float32)
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            if len(document):
                scores[i, j] = sum(max(float(a @ b) for b in document) for a in query)
    return scores


def test_by_hand():
    queries = rows([[1, 0], [0, 1]], [[-1, 0]], [])
    documents = rows([[2, 1], [0, 3]], [], [[1, 1]])
    assert maxsim(queries, documents).tolist() == [[5, -1e9, 2], [0, -1e9, -1], [0, -1e9, 0]]
    assert maxsim(queries, documents, "meanmaxsim").tolist() == [[2.5, -5e8, 1], [0, -1e9, -1], [0, -1e9, 0]]
    assert maxsim_pairs(queries, documents).tolist() == [5, -1e9, 0]
    assert maxsim(queries, documents).dtype == maxsim_pairs(queries, documents).dtype == np.float32


def test_nothing_gives_nothing():
    some = rows([[1, 0]])
    assert maxsim(rows(), some).shape == (0, 1)
    assert maxsim(some, rows()).shape == (1, 0)
    assert maxsim_pairs(rows(), rows()).shape == (0,)


def test_other_widths_and_numbers_are_refused():
    with pytest.raises(InputError, match="queries have 2 dimensions and documents 3"):
        maxsim(rows([[1, 0]]), drawn([1]))
    with pytest.raises(InputError, match="1 queries and 2 documents are no pairs"):
        maxsim_pairs(drawn([1]), drawn([1, 1]))


def test_half_precision_is_summed_in_float32():
    query = rows([[1, 0]] * 3000, dtype=np.float16)
    document = rows([[1.001, 0]], dtype=np.float16)
    assert maxsim(query, document).tolist() == [[3000 * float(np.float16(1.001))]]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.integers(1, 200),
)
def test_blocks_of_any_size_equal_a_plain_loop(some, others, block):
    queries, documents = drawn(some), drawn(others, seed=1)
    expected = plainly(queries, documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        assert_close(maxsim(queries, documents), expected)
    shared = min(len(queries), len(documents))
    assert_close(maxsim_pairs(queries[:shared], documents[:shared]), expected.diagonal())


@pytest.mark.parametrize("block", [1, 300, 2**26])
def test_the_device_gives_the_same(block, monkeypatch):
    monkeypatch.setattr(on_device, "_BLOCK", block)
    queries, documents = drawn([3, 0, 5, 1, 8]), drawn([7, 0, 1, 12, 3, 0, 2], seed=1)
    for similarity in ("maxsim", "meanmaxsim"):
        expected = maxsim(queries, documents, similarity)
        assert_close(on_device.device_maxsim(queries, documents, similarity, DEVICE), expected, 1e-5)
    assert on_device.device_maxsim(queries[:0], documents, "maxsim", DEVICE).shape == (0, 7)
    assert on_device.device_maxsim(queries, documents[:0], "maxsim", DEVICE).shape == (5, 0)


def test_the_best_token_of_each():
    (query,), (document,) = rows([[1, 0], [0, 1], [-1, -1]]), rows([[2, 1], [0, 3], [2, 0]])
    found = token_pairs(query, document)
    assert found == [TokenPair(0, 0, 2.0), TokenPair(1, 1, 3.0), TokenPair(2, 2, -2.0)]
    assert sum(pair.score for pair in found) == maxsim_pairs(rows(query), rows(document))[0]
    assert {type(value) for pair in found for value in pair} == {int, float}
    assert token_pairs(query[:0], document) == token_pairs(query, document[:0]) == []
