"""Backbone → pooling → Dense: what is in the padding is irrelevant; Dense layers by hand."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx import Embedder
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.heads.dense import ACTIVATIONS, DenseLayer
from akidb_mlx.model.heads.pooled import Pooled
from akidb_mlx.model.padded_batch import pad_batch
from support.checkpoints import CASES, REFERENCE
from support.comparison import assert_close
from support.waiting import PATIENCE_S

NUMBERS = [-2.0, -0.5, 0.0, 0.5, 2.0]
BY_HAND = {
    "identity": NUMBERS,
    "relu": [0, 0, 0, 0.5, 2],
    "tanh": np.tanh(NUMBERS),
    "sigmoid": 1 / (1 + np.exp(-np.array(NUMBERS))),
    "silu": np.array(NUMBERS) / (1 + np.exp(-np.array(NUMBERS))),
    # x · Φ(x), with Φ(0.5) = 0.6914624613 and Φ(2) = 0.9772498681
    "gelu": [-2 * 0.0227501319, -0.5 * 0.3085375387, 0, 0.5 * 0.6914624613, 2 * 0.9772498681],
}


def compute(embedder, batch):
    return DEVICE_THREADS.run(lambda: np.array(embedder._loaded.engine.model(batch))).result(PATIENCE_S)


@pytest.mark.parametrize("name", CASES)
def test_what_is_in_the_padding_is_irrelevant(name):
    """Also more of it; in float32, where a GPU would compute in 16 bits. Texts alone: test_parity."""
    facts = json.loads((REFERENCE / name / "reference.json").read_text(encoding="utf-8"))
    with Embedder.load(REFERENCE / name, dtype="float32") as embedder:
        rows = embedder._path.encoder.encode(facts["texts"][:10], "").encodings
        ids, longest = [row.token_ids for row in rows], max(map(len, rows))
        zeros = pad_batch(rows, longest)
        expected = compute(embedder, zeros)
        rng = np.random.default_rng(0)
        real = np.arange(longest) < zeros.lengths[:, None]
        ids = np.where(real, zeros.input_ids, rng.integers(1, max(map(max, ids)), zeros.input_ids.shape))
        rubbish = replace(zeros, input_ids=ids.astype(np.int32))
        assert_close(compute(embedder, rubbish), expected, 2e-6)
        more = longest + 1 if longest < (embedder.max_seq_length or 10**9) else longest
        assert_close(compute(embedder, pad_batch(rows, more)), expected, 2e-6)


def test_every_activation_is_tested():
    assert set(BY_HAND) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", BY_HAND)
def test_activations_by_hand(name):
    assert_close(np.array(ACTIVATIONS[name](mx.array(NUMBERS))), BY_HAND[name])


def dense(bias, residual, out_features=2):
    layer = DenseLayer(3, out_features, bias=bias, activation="relu", residual=residual)
    weights = [("linear.weight", mx.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]])[:out_features])]
    weights += [("linear.bias", mx.array([10.0, -10.0])[:out_features])] if bias else []
    weights += [("residual.weight", mx.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))] if residual else []
    layer.load_weights(weights)
    return np.array(layer(mx.array([[1.0, 2.0, -1.0]]))).tolist()


def test_dense_layers_by_hand():
    assert dense(bias=False, residual=False) == [[2, 0]]
    assert dense(bias=True, residual=False) == [[12, 0]]
    assert dense(bias=True, residual=True) == [[14, 1]]


def test_a_residual_of_one_width_is_the_input():
    layer = DenseLayer(2, 2, bias=False, activation="identity", residual=True)
    layer.load_weights([("linear.weight", mx.array([[1.0, 1.0], [0.0, 1.0]]))])
    assert np.array(layer(mx.array([[3.0, 4.0]]))).tolist() == [[10, 8]]


def test_dense_layers_must_follow_on_each_other():
    first = DenseLayer(6, 4, bias=True, activation="tanh", residual=False)
    second = DenseLayer(4, 5, bias=True, activation="tanh", residual=False)
    assert Pooled(3, ["mean", "max"], [first, second]).width == 5
    assert Pooled(3, ["cls"], []).width == 3
    with pytest.raises(CheckpointError, match="a Dense layer takes 6 numbers and gets 3"):
        Pooled(3, ["mean"], [first])
    with pytest.raises(CheckpointError, match="a Dense layer takes 6 numbers and gets 5"):
        Pooled(3, ["mean", "max"], [first, second, first])
