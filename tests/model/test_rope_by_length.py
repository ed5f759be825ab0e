"""Rotary positions that a text's length decides: rows of one batch turn each by their own."""

import threading

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx.model.layers.rope import Rope, frequencies, make_rope, rope_parameters
from akidb_mlx.model.layers.rope_by_length import make_rope_by_length

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [2.0, 4.0, 6.0, 8.0],
    "factor": 4.0,
    "original_max_position_embeddings": 8,
}


def draw(rows, length=20):
    return mx.array(np.random.default_rng(0).standard_normal((rows, 2, length, 10)).astype(np.float32))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("parameters", [DYNAMIC, LONG], ids=["dynamic", "longrope"])
def test_rows_of_a_batch_turn_as_alone(parameters, interleaved):
    rope = make_rope_by_length(8, parameters, 8, interleaved=interleaved)
    lengths, x = np.array([5, 8, 9, 20], np.int32), draw(4)
    with rope.of_rows(lengths):
        together = rope(x, 3)
    for row, length in enumerate(lengths):
        with rope.of_rows(np.array([length])):
            alone = rope(x[row : row + 1], 3)
        assert mx.abs(together[row : row + 1] - alone).max() < 1e-6


def test_dynamic_bases():
    """16 tokens of 8: the base times (4 · 2 - 3) ** (8 / 6); up to 8 tokens it is as it was."""
    rope, x = make_rope_by_length(8, DYNAMIC, 8), draw(1)
    for length, base in ((8, 1e4), (16, 1e4 * 5 ** (8 / 6))):
        with rope.of_rows(np.array([length])):
            assert mx.array_equal(rope(x, 0), Rope(frequencies(8, base))(x, 0))


def test_each_thread_has_its_own_rows():
    rope, x = make_rope_by_length(8, DYNAMIC, 8), draw(1)
    found = {}

    def turn(length, meanwhile=None):
        with rope.of_rows(np.array([length])):
            if meanwhile is not None:
                thread = threading.Thread(target=meanwhile)
                thread.start()
                thread.join()
            with mx.stream(mx.cpu):
                found[length] = np.array(rope(x, 0))

    turn(20)
    alone = found.pop(20)
    turn(20, lambda: turn(4))
    assert np.array_equal(found[20], alone)
    assert not np.array_equal(found[4], alone)


def test_truncate_is_read_beside_the_kinds_of_layers():
    """As the reference does: in a kind's own settings it counts for nothing."""
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "truncate": False}
    config = {"max_position_embeddings": 64, "rope_parameters": {"full_attention": yarn}}
    inner = rope_parameters(config, "full_attention")
    assert inner["truncate"] is True
    config["rope_parameters"]["truncate"] = False
    assert rope_parameters(config, "full_attention")["truncate"] is False
    first, second = (make_rope(16, {**inner, "truncate": value})._wavelengths for value in (True, False))
    assert not mx.array_equal(first, second)
