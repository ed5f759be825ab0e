"""Mixtures of experts: against float64 NumPy, by both ways of computing, with near and exact ties of the router."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.model.layers.experts import ExpertLinear, Experts, Mixture, Router
from support.batches import peak_bytes
from support.checkpoints import REFERENCE
from support.comparison import assert_close
from support.device import DEVICE
from support.waiting import PATIENCE_S

WIDTH, INNER, COUNT = 32, 64, 6
PACKINGS = [{"group_size": 32, "bits": 4}, {"group_size": 32, "bits": 8, "mode": "mxfp8"}]


def make_mixture(*, gated=True, chosen=2, normalise=True, seed=0):
    """Random weights, and them in float64."""
    random = np.random.default_rng(seed)
    mixture = Mixture(
        Router(WIDTH, COUNT, chosen, normalise=normalise), Experts(WIDTH, INNER, COUNT, nn.silu, gated=gated)
    )
    shapes = {name: layer.weight.shape for name, layer in mixture.experts.children().items()}
    weights = {f"experts.{name}.weight": random.normal(size=shape) / 6 for name, shape in shapes.items()}
    weights["router.weight"] = random.normal(size=(COUNT, WIDTH)) / 4
    weights = {name: weight.astype(np.float32) for name, weight in weights.items()}
    mixture.load_weights([(name, mx.array(weight)) for name, weight in weights.items()])
    return mixture, {name: weight.astype(np.float64) for name, weight in weights.items()}


def expected(weights, x, chosen, *, normalise):
    """One token after the other, in float64."""
    rows = []
    for token in x.astype(np.float64):
        logits = weights["router.weight"] @ token
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = np.argsort(-probabilities, kind="stable")[:chosen]
        total = probabilities[best].sum() if normalise else 1.0
        rows.append(sum(probabilities[e] / total * network(weights, token, e) for e in best))
    return np.array(rows)


def network(weights, token, expert):
    up = weights["experts.up_proj.weight"][expert] @ token
    if "experts.gate_proj.weight" in weights:
        gate = weights["experts.gate_proj.weight"][expert] @ token
        inner = gate / (1 + np.exp(-gate)) * up
    else:
        inner = up / (1 + np.exp(-up))
    return weights["experts.down_proj.weight"][expert] @ inner


def tokens(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 1500])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_equals_the_formula(gated, normalise, count):
    mixture, weights = make_mixture(gated=gated, normalise=normalise)
    x = tokens(count)
    ours = np.array(mixture(mx.array(x)[None]))[0]
    assert_close(ours, expected(weights, x, 2, normalise=normalise), 1e-5)


@pytest.mark.parametrize("count", [1, 3, 700])
def test_both_ways_of_computing_are_equal(count):
    """On a GPU by products that gather their matrices, on the CPU expert by expert."""
    mixture, _ = make_mixture(chosen=3)
    x = mx.array(tokens(count))
    experts, _ = mixture.router(x)
    assert_close(np.array(mixture.experts.gathered(x, experts)), np.array(mixture.experts.by_expert(x, experts)), 1e-5)


def test_all_tokens_to_one_expert():
    mixture, weights = make_mixture(chosen=1)
    weights["router.weight"][:] = 0
    weights["router.weight"][4, 0] = 5
    mixture.router.weight = mx.array(weights["router.weight"].astype(np.float32))
    x = np.abs(tokens(600))
    assert_close(np.array(mixture(mx.array(x)[None]))[0], expected(weights, x, 1, normalise=True), 1e-5)


@pytest.mark.parametrize("packing", PACKINGS, ids=["4 bit", "mxfp8"])
@pytest.mark.parametrize("way", ["gathered", "by_expert"])
def test_packed_equals_dequantised(packing, way):
    mixture, _ = make_mixture()
    x = mx.array(tokens(40))
    experts, _ = mixture.router(x)
    nn.quantize(mixture.experts, **packing)
    assert mixture.experts.up_proj.weight.dtype == mx.uint32
    packed = np.array(getattr(mixture.experts, way)(x, experts))
    floats, _ = make_mixture()
    for name, layer in mixture.experts.children().items():
        parts = (layer.weight, layer.scales, layer.get("biases"))
        floats.experts[name].weight = mx.dequantize(*parts, **packing).astype(mx.float32)
    assert_close(packed, np.array(getattr(floats.experts, way)(x, experts)), 1e-5)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(DEVICE.kind != "cpu", reason="the CPU build's estimate")
@pytest.mark.parametrize("shape", [(32, 400), (1, 1500)], ids=str)
def test_the_estimate_is_not_too_low(shape):
    rows, length = shape
    with Embedder.load(REFERENCE / "heads-64-nomic-moe", device="cpu", max_seq_length=length) as embedder:
        model = embedder._loaded.engine.model
        taken = DEVICE_THREADS.run(lambda: peak_bytes(model, rows, length)).result(PATIENCE_S)
        assert taken <= model.activation_bytes(rows, length) <= 4 * taken + (32 << 20)


@pytest.mark.skipif(DEVICE.kind != "cpu", reason="elsewhere products gather their matrices")
@pytest.mark.parametrize("packing", [None, {"group_size": 64, "bits": 4}], ids=["float32", "4 bit"])
def test_no_experts_matrix_is_copied(packing):
    """Which would take longer than the product of a query's few tokens."""
    layer = ExpertLinear(1024, 1024, 4)
    layer = layer if packing is None else layer.to_quantized(**packing)
    x = mx.zeros((4, 1024))
    mx.eval(layer.parameters(), x)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(layer.one(x, 2))
    assert mx.get_peak_memory() - before < layer.weight.nbytes / 4 / 8


# ── the router ───────────────────────────────────────────────────────────────────────────────────────


def test_equal_experts_are_taken_in_their_order():
    router = Router(WIDTH, COUNT, 3, normalise=False)  # of zeros
    experts, weights = router(mx.array(tokens(50, seed=2)))
    assert np.array(experts).tolist() == [[0, 1, 2]] * 50
    assert np.abs(np.array(weights) - 1 / COUNT).max() < 1e-6


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_nearly_equal_experts_are_told_apart(dtype):
    """Rows of the router that differ by 1e-4 of themselves: in 16 bit their products would be equal."""
    random = np.random.default_rng(3)
    router = Router(WIDTH, 4, 1, normalise=False)
    rows = random.normal(size=(1, WIDTH)) + 1e-4 * random.normal(size=(4, WIDTH))
    router.weight = mx.array(rows.astype(np.float32))
    x = mx.array(tokens(500)).astype(dtype)
    logits = np.array(x.astype(mx.float32)).astype(np.float64) @ np.array(router.weight).astype(np.float64).T
    best = logits.argmax(axis=1)
    clear = np.diff(np.sort(logits, axis=1)[:, -2:])[:, 0] > 1e-5  # what float32 can tell
    assert clear.mean() > 0.7
    assert (np.array(router(x)[0])[:, 0] == best)[clear].all()
    rounded = np.array((x.astype(mx.bfloat16) @ router.weight.astype(mx.bfloat16).T).astype(mx.float32))
    assert (rounded.argmax(axis=1) != best)[clear].mean() > 0.1


def test_a_correction_counts_in_the_choice_alone():
    router = Router(WIDTH, COUNT, 2, normalise=True, corrected=True)
    router.weight = mx.array(tokens(COUNT, seed=4) / 8)
    router.correction = mx.array([0.0, 0, 5, 0, 5, 0])
    x = mx.array(tokens(9))
    experts, weights = (np.array(array) for array in router(x))
    assert set(experts.ravel().tolist()) == {2, 4}
    probabilities = np.array(mx.softmax(x @ router.weight.T, axis=-1))
    picked = np.take_along_axis(probabilities, experts, axis=1)
    assert_close(weights, picked / picked.sum(axis=1, keepdims=True), 1e-6)


def test_routers_stay_in_float32_and_unpacked():
    with Embedder.load(REFERENCE / "nomic-moe-published", dtype="bfloat16") as embedder:
        backbone = embedder._loaded.engine.model.backbone
        routers = [module for module in backbone.modules() if isinstance(module, Router)]
        assert [router.weight.dtype for router in routers] == [mx.float32]
        assert backbone.layers[1].mlp.experts.up_proj.weight.dtype == mx.bfloat16
