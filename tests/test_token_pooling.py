"""Vectors that are merged: Ward's clusters against scipy's, and their means by hand."""

import json

import numpy as np
import pytest

from akidb_mlx.token_pooling import clusters, pool_tokens
from support.checkpoints import MULTI_VECTOR
from support.comparison import assert_close, assert_unit_length

CLUSTERED = json.loads((MULTI_VECTOR / "clusters.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CLUSTERED)
def test_clusters_are_scipys(name):
    row = CLUSTERED[name]
    vectors = np.random.default_rng(row["seed"]).standard_normal((row["count"], row["width"]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert clusters(np.clip(1 - vectors @ vectors.T, 0, 2), row["most"]).tolist() == row["labels"]


def test_by_hand():
    first, up, nearly_up, right = [-1, 0], [0, 1], [0.6, 0.8], [1, 0]
    vectors = np.array([first, up, right, nearly_up, right], np.float32)
    found = pool_tokens(vectors, 2, normalize=False)
    assert_close(found, [first, right, np.mean([up, nearly_up], axis=0)])
    scaled = pool_tokens(vectors, 2)
    assert_unit_length(scaled)
    assert scaled.dtype == np.float32


@pytest.mark.parametrize(
    ("count", "factor", "left"), [(0, 2, 0), (1, 2, 1), (2, 2, 2), (3, 2, 2), (9, 2, 5), (9, 100, 2)]
)
def test_how_many_are_left(count, factor, left):
    vectors = np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)
    assert pool_tokens(vectors, factor).shape == (left, 4)


def test_equal_vectors_are_one_cluster():
    vectors = np.array([[0, 1]] + [[1, 0]] * 6, np.float32)
    assert pool_tokens(vectors, 1.5).tolist() == [[0, 1], [1, 0]]
