"""The CPU build's own GELUs against their formulas in float64, over all inputs that matter and far beyond."""

import math

import mlx.core as mx
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx.model.layers import cpu_kernels

INPUTS = np.concatenate([np.linspace(-30, 30, 60_001), [-1e38, -1e13, -1e4, 1e4, 1e13, 1e38]]).astype(np.float32)


def exact(x):
    return 0.5 * x * (1 + np.array([math.erf(value) for value in x / math.sqrt(2)]))


def by_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


@pytest.mark.parametrize(
    ("kernel", "formula"), [(cpu_kernels.gelu, exact), (cpu_kernels.gelu_tanh, by_tanh)], ids=["gelu", "gelu_tanh"]
)
def test_gelu_is_off_by_less_than_a_millionth(kernel, formula):
    with mx.stream(mx.cpu):
        found = np.array(kernel(mx.array(INPUTS)), np.float64)
    expected = formula(INPUTS.astype(np.float64))
    assert (np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max() < 1e-6
