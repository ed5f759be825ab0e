"""The rule by which the tests compare vectors: what it must not let through."""

import numpy as np
import pytest

from support.comparison import assert_close, assert_unit_length, close_to, difference

ROWS = np.array([[0.5, -4.0], [1.0, 2.0]], np.float32)


def test_differences_are_relative_to_the_largest_number_but_never_to_less_than_one():
    assert difference(ROWS + np.float32(0.5), ROWS) == 0.125
    assert difference(ROWS / 8 + np.float32(0.25), ROWS / 8) == 0.25
    assert difference([], []) == 0.0


def test_the_tolerance_is_kept():
    assert_close(ROWS + np.float32(0.5), ROWS, 0.125)
    with pytest.raises(AssertionError, match=r"differs by 0\.125 .*; 1e-06 is allowed"):
        assert_close(ROWS + np.float32(0.5), ROWS)


@pytest.mark.parametrize("wrong", [ROWS[:1], ROWS.ravel(), 4.0])
def test_another_shape_is_another_thing(wrong):
    with pytest.raises(AssertionError):
        close_to(wrong, ROWS, 100)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_is_close_to_nothing(number):
    rows = ROWS.copy()
    rows[0, 0] = number
    for found, expected in ((rows, ROWS), (ROWS, rows), (rows, rows)):
        with pytest.raises(AssertionError):
            close_to(found, expected, 100)


def test_unit_length():
    assert_unit_length([[0.6, 0.8], [0, -1]])
    with pytest.raises(AssertionError):
        assert_unit_length([[0.6, 0.8], [0, -1.01]])
