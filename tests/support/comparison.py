"""The one rule by which vectors are equal: the largest difference, relative to max(1, largest expected number).

float32 sums depend on their order, hence on what shares a batch: 1e-6 between two computations of ours, 1e-5 from
the reference's numbers.
"""

import numpy as np


def difference(found, expected):
    """The largest difference as a share of max(1, largest expected number)."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.isfinite(found).all() and np.isfinite(expected).all()
    return float(np.abs(found - expected).max(initial=0) / np.abs(expected).max(initial=1))


def close_to(found, expected, tolerance=1e-6):
    return difference(found, expected) <= tolerance


def assert_close(found, expected, tolerance=1e-6):
    largest = difference(found, expected)
    assert largest <= tolerance, f"differs by {largest:.3g} of the largest number; {tolerance:.3g} is allowed"


def assert_unit_length(rows, tolerance=1e-6):
    lengths = np.linalg.norm(rows, axis=-1)
    assert_close(lengths, np.ones_like(lengths), tolerance)


def cosines(a, b):
    """Row by row."""
    return (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
