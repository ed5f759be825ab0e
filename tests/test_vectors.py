"""Rows on the host: truncate, normalise, compare, validate."""

import numpy as np
import pytest

from akidb_mlx.errors import InputError
from akidb_mlx.vectors import finish, similarity, similarity_pairwise, validate
from support.comparison import assert_close
from support.pairwise import LEFT, PAIRWISE, RIGHT

ROWS = np.array([[3, 4, 12], [0, -5, 0]], np.float32)


# ── finish ───────────────────────────────────────────────────────────────────────────────────────────


def test_rows_stay_as_they_are():
    out = finish(ROWS, 3, normalize=False)
    assert out.tolist() == ROWS.tolist()
    assert out.dtype == np.float32 and out.flags.c_contiguous


def test_normalising_by_hand():
    np.testing.assert_allclose(finish(ROWS, 3, normalize=True), [[3 / 13, 4 / 13, 12 / 13], [0, -1, 0]], rtol=1e-6)


def test_truncation_comes_before_normalisation():
    np.testing.assert_allclose(finish(ROWS, 2, normalize=True), [[0.6, 0.8], [0, -1]], rtol=1e-6)


def test_truncation_alone():
    out = finish(ROWS, 2, normalize=False)
    assert out.tolist() == [[3, 4], [0, -5]]
    assert out.flags.c_contiguous


def test_what_was_given_is_not_changed():
    rows = ROWS.copy()
    finish(rows, 2, normalize=True)
    assert rows.tolist() == ROWS.tolist()


def test_a_zero_row_stays_zero():
    assert finish(np.zeros((1, 3), np.float32), 3, normalize=True).tolist() == [[0, 0, 0]]


def test_layer_norm_before_a_cut_by_hand():
    # mean 3, variance 2: (1 - 3) / √2 …
    rows = np.array([[1, 2, 3, 4, 5]], np.float32)
    out = finish(rows, 2, normalize=False, layer_norm=True)
    np.testing.assert_allclose(out, [[-2 / np.sqrt(2 + 1e-5), -1 / np.sqrt(2 + 1e-5)]], rtol=1e-6)


def test_layer_norm_only_where_something_is_cut():
    assert finish(ROWS, 3, normalize=False, layer_norm=True).tolist() == ROWS.tolist()


def test_no_rows():
    assert finish(np.empty((0, 3), np.float32), 2, normalize=True).shape == (0, 2)


# ── similarity ───────────────────────────────────────────────────────────────────────────────────────

A = [[3.0, 4.0], [1.0, 0.0]]
B = [[4.0, 3.0], [0.0, 2.0], [-3.0, -4.0]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", [[0.96, 0.8, -1.0], [0.8, 0.0, -0.6]]),
        ("dot", [[24, 8, -25], [4, 0, -3]]),
        ("euclidean", [[-np.sqrt(2), -np.sqrt(13), -10], [-np.sqrt(18), -np.sqrt(5), -np.sqrt(32)]]),
        ("manhattan", [[-2, -5, -14], [-6, -3, -8]]),
    ],
)
def test_similarity_by_hand(kind, expected):
    scores = similarity(A, B, kind)
    assert scores.shape == (2, 3)
    assert scores.dtype == np.float32
    assert_close(scores, expected)


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan"])
def test_one_row_may_come_bare_and_none_may_come(kind):
    np.testing.assert_allclose(similarity(A[0], B, kind), similarity(A[:1], B, kind))
    assert similarity(np.empty((0, 2)), B, kind).shape == (0, 3)
    assert similarity(A, np.empty((0, 2)), kind).shape == (2, 0)


@pytest.mark.parametrize("b", [[[1.0, 2.0, 3.0]], [[[1.0, 2.0], [3.0, 4.0]]]])
def test_similarity_of_rows_that_do_not_match(b):
    with pytest.raises(InputError, match="one dimension"):
        similarity(A, b)


@pytest.mark.parametrize("kind", sorted(PAIRWISE))
def test_pairs_have_the_references_scores(kind):
    scores = similarity_pairwise(LEFT, RIGHT, kind)
    assert scores.shape == (4,) and scores.dtype == np.float32
    assert_close(scores, PAIRWISE[kind])
    assert_close(scores, np.diag(similarity(LEFT, RIGHT, kind)))
    assert_close(similarity_pairwise(LEFT[0], RIGHT[0], kind), PAIRWISE[kind][:1])
    assert similarity_pairwise(np.empty((0, 2)), np.empty((0, 2)), kind).shape == (0,)


def test_rows_that_are_no_pairs():
    with pytest.raises(InputError, match="2 rows and 3 rows are no pairs"):
        similarity_pairwise(A, B)
    with pytest.raises(InputError, match="one dimension"):
        similarity_pairwise(A, [[1.0, 2.0, 3.0]] * 2)


# ── validate ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 2, 3], [4, 5, 6]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        ((1, 2, 3), (4, 5, 6)),
        [np.array([1, 2, 3]), np.array([4, 5, 6], np.float64)],
        np.array([[1, 2, 3], [4, 5, 6]], np.int64),
        np.array([[1, 2, 3], [4, 5, 6]], np.float16),
    ],
)
def test_what_can_be_taken(vectors):
    rows = validate(vectors, 3)
    assert rows.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert rows.dtype == np.float32


@pytest.mark.parametrize("vectors", [[], np.empty((0, 3))])
def test_no_rows_are_an_empty_array(vectors):
    assert validate(vectors, 3).shape == (0, 3)


def test_the_result_is_a_copy():
    given = np.ones((2, 3), np.float32)
    validate(given, 3)[0] = 9
    assert given[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ([[1, 2, 3], [1, 2]], "row 1 has shape"),
        ([[1, 2], [1, 2]], "row 0 has 2 numbers; the model's dimension is 3"),
        ([1, 2, 3], "shape"),
        ([[[1, 2, 3]]], "shape"),
        (5, "rows of numbers"),
        (None, "rows of numbers"),
        ("abc", "row 0 is not a sequence of numbers"),
        ([[1, 2, 3], ["a", "b", "c"]], "row 1 is not a sequence of numbers"),
        ([[1, 2, 3], None], "row 1 is not a sequence of numbers"),
        ([[1, 2, 3], [1, None, 3]], "row 1 is not a sequence of numbers"),
        ([[True, False, True]], "row 0 is not a sequence of numbers"),
        ([[1, 2, 3], [1j, 2, 3]], "row 1 is not a sequence of numbers"),
        ([[1, 2, 3], {1, 2, 3}], "row 1"),
        ([[1, 2, 3], [1, float("nan"), 3]], "row 1 holds NaN"),
        ([[float("inf"), 2, 3]], "row 0 holds NaN or infinity"),
        ([[1, 2, 3], [1e39, 2, 3]], "row 1 holds .*beyond float32"),
    ],
)
def test_the_bad_row_is_named(vectors, says):
    with pytest.raises(InputError, match=says):
        validate(vectors, 3)


def test_unit_length_is_checked_on_request():
    rows = [[0.6, 0.8, 0], [0, 0, 1.0009], [0, 1.0012, 0]]
    assert validate(rows, 3).shape == (3, 3)
    assert validate(rows[:2], 3, unit_length=True).shape == (2, 3)
    with pytest.raises(InputError, match="row 2 has length 1.0012"):
        validate(rows, 3, unit_length=True)
