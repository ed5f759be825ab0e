"""Pooling, by hand: 2 rows of 4 tokens and 2 channels; the second row has 2 real tokens, then rubbish."""

import math

import mlx.core as mx
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx.checkpoint.facts import POOLING_NAMES
from akidb_mlx.config.options import POOLING_MODES
from akidb_mlx.model.heads.pooling import POOLING, pool

HIDDEN = [
    [[1, -4], [2, -3], [4, -2], [5, -1]],
    [[-3, 10], [-1, 20], [777, 777], [-999, 999]],
]
LENGTHS = [4, 2]
ROOT2 = math.sqrt(2)

BY_HAND = {
    "cls": [[1, -4], [-3, 10]],
    "mean": [[3, -2.5], [-2, 15]],
    "max": [[5, -1], [-1, 20]],
    "mean_sqrt_len": [[6, -5], [-4 / ROOT2, 30 / ROOT2]],
    # (1·1 + 2·2 + 3·4 + 4·5) / 10, (1·-4 + 2·-3 + 3·-2 + 4·-1) / 10; (1·-3 + 2·-1) / 3, (10 + 40) / 3
    "weighted_mean": [[3.7, -2], [-5 / 3, 50 / 3]],
    "last_token": [[5, -1], [-1, 20]],
}
# The first token of row 0 and of row 1 belongs to a prompt.
WITHOUT_PROMPT = {
    "cls": [[2, -3], [-1, 20]],
    "mean": [[11 / 3, -2], [-1, 20]],
    "max": [[5, -1], [-1, 20]],
    "mean_sqrt_len": [[11 / math.sqrt(3), -6 / math.sqrt(3)], [-1, 20]],
    # weights go on counting from the text's first token: 2, 3, 4
    "weighted_mean": [[36 / 9, -16 / 9], [-1, 20]],
    "last_token": [[5, -1], [-1, 20]],
}


def pooled(hidden, lengths, modes, prompts=None, dtype=mx.float32):
    rows = pool(mx.array(hidden, dtype=dtype), np.array(lengths), np.array(prompts or [0] * len(lengths)), modes)
    assert rows.dtype == mx.float32
    return np.array(rows)


def test_every_mode_is_tested_and_known_to_configuration_and_checkpoint():
    assert set(BY_HAND) == set(WITHOUT_PROMPT) == set(POOLING) == set(POOLING_MODES) == set(POOLING_NAMES.values())


@pytest.mark.parametrize("mode", BY_HAND)
def test_by_hand(mode):
    np.testing.assert_allclose(pooled(HIDDEN, LENGTHS, [mode]), BY_HAND[mode], rtol=1e-6)


@pytest.mark.parametrize("mode", WITHOUT_PROMPT)
def test_a_prompt_is_left_out(mode):
    np.testing.assert_allclose(pooled(HIDDEN, LENGTHS, [mode], [1, 1]), WITHOUT_PROMPT[mode], rtol=1e-6)


@pytest.mark.parametrize("mode", BY_HAND)
def test_one_token_is_itself(mode):
    np.testing.assert_allclose(pooled([[[3, -7], [50, 50]]], [1], [mode]), [[3, -7]], rtol=1e-6)


def test_the_maximum_of_negative_numbers_is_negative():
    assert pooled([[[-5, -9], [-7, -8], [0, 0]]], [2], ["max"]).tolist() == [[-5, -8]]


@pytest.mark.parametrize("mode", BY_HAND)
@pytest.mark.parametrize("rubbish", [0.0, 1e30, -1e30])
def test_what_is_in_the_padding_is_irrelevant(mode, rubbish):
    hidden = np.array(HIDDEN, np.float32)
    hidden[1, 2:] = rubbish
    np.testing.assert_allclose(pooled(hidden, LENGTHS, [mode]), BY_HAND[mode], rtol=1e-6)


@pytest.mark.parametrize("mode", BY_HAND)
def test_more_padding_changes_nothing(mode):
    hidden = np.concatenate([np.array(HIDDEN, np.float32), np.full((2, 60, 2), 123.0, np.float32)], axis=1)
    np.testing.assert_allclose(pooled(hidden, LENGTHS, [mode]), BY_HAND[mode], rtol=1e-6)


@pytest.mark.parametrize("mode", [mode for mode in BY_HAND if mode != "max"])
def test_a_text_that_its_prompt_fills_stays_finite(mode):
    assert np.isfinite(pooled(HIDDEN, LENGTHS, [mode], [4, 9])).all()


def test_modes_stand_side_by_side_in_their_order():
    rows = pooled(HIDDEN, LENGTHS, ["max", "cls", "mean"])
    expected = np.concatenate([BY_HAND["max"], BY_HAND["cls"], BY_HAND["mean"]], axis=1)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", BY_HAND)
def test_rows_are_float32_whatever_the_backbone_computes_in(mode):
    np.testing.assert_allclose(pooled(HIDDEN, LENGTHS, [mode], dtype=mx.bfloat16)[0], BY_HAND[mode][0], rtol=1e-6)


def test_sixteen_bit_hidden_states_are_pooled_in_float32():
    # 1 + 2**-7 is exact in bfloat16; a sum of 300 of them is not
    value = 1 + 2**-7
    rows = pooled(np.full((1, 300, 1), value, np.float32), [300], ["mean"], dtype=mx.bfloat16)
    assert rows[0, 0] == pytest.approx(value, rel=1e-6)
