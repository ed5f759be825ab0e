"""SparseRows and MultiVectors: what they hold, row by row and together."""

import numpy as np
import pytest

from akidb_mlx.errors import InputError
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.sparse_rows import SparseRows


def sparse(*rows, dimension=6):
    pairs = [None if row is None else (np.array(list(row), np.int32), np.array(list(row.values()))) for row in rows]
    return SparseRows.of(pairs, dimension)


def test_sparse_rows():
    rows = sparse({1: 0.5, 4: 2.0}, None, {0: 1.0})
    assert rows.indptr.tolist() == [0, 2, 2, 3] and rows.indptr.dtype == np.int64
    assert rows.indices.tolist() == [1, 4, 0] and rows.indices.dtype == np.int32
    assert rows.values.dtype == np.float32 and len(rows) == 3
    assert rows.to_dicts() == [{1: 0.5, 4: 2.0}, {}, {0: 1.0}]
    assert rows.to_dense().tolist() == [[0, 0.5, 0, 0, 2, 0], [0] * 6, [1, 0, 0, 0, 0, 0]]
    assert [indices.tolist() for indices, _ in rows] == [[1, 4], [], [0]]
    assert rows[-1][0].tolist() == [0] and rows[1:].to_dicts() == [{}, {0: 1.0}]
    with pytest.raises(IndexError):
        rows[3]


def test_sparse_rows_of_nothing():
    rows = SparseRows.of([], 6)
    assert len(rows) == 0 and rows.to_dense().shape == (0, 6) and rows.indices.dtype == np.int32


def test_sparse_rows_together():
    rows = SparseRows.concatenate([sparse({1: 0.5}), sparse(), sparse(None, {2: 1.0, 3: 4.0})])
    assert rows.to_dicts() == [{1: 0.5}, {}, {2: 1.0, 3: 4.0}]
    with pytest.raises(InputError, match="rows of one dimension"):
        SparseRows.concatenate([sparse(), sparse(dimension=7)])


def test_multi_vectors():
    texts = [np.ones((2, 3), np.float32), None, np.zeros((1, 3), np.float32)]
    rows = MultiVectors.of(texts, 3)
    assert rows.offsets.tolist() == [0, 2, 2, 3] and rows.vectors.dtype == np.float32 and rows.dimension == 3
    assert [len(row) for row in rows] == [2, 0, 1] and len(rows) == 3
    assert np.shares_memory(rows[0], rows.vectors) and rows[-1].tolist() == [[0, 0, 0]]
    assert [len(row) for row in rows[::2]] == [2, 1]
    with pytest.raises(IndexError):
        rows[3]
    assert MultiVectors.of([], 3).vectors.shape == (0, 3)


def test_multi_vectors_together():
    one, other = MultiVectors.of([np.ones((2, 3), np.float32)], 3), MultiVectors.of([None], 3)
    assert [len(row) for row in MultiVectors.concatenate([one, other, one])] == [2, 0, 2]
    with pytest.raises(InputError, match="rows of one dimension"):
        MultiVectors.concatenate([one, MultiVectors.of([], 4)])
