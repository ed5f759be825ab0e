"""Activations by name: the numbers of transformers' own."""

import json

import mlx.core as mx
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx.model.layers.activations import ACTIVATIONS
from support.checkpoints import REFERENCE
from support.comparison import assert_close

NUMBERS = json.loads((REFERENCE / "activations.json").read_text(encoding="utf-8"))
NOT_HERE = {"laplace", "sqrtsoftplus"}


def test_every_name_is_known_but_two():
    assert ACTIVATIONS.keys() == NUMBERS.keys() - {"x"} - NOT_HERE


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_references_numbers(name):
    computed = np.array(ACTIVATIONS[name](mx.array(NUMBERS["x"], dtype=mx.float32)))
    assert_close(computed, np.array(NUMBERS[name]), 1e-6)
