"""BERT's layers by NumPy and the BLAS give what MLX gives, and both what the reference does."""

import math
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx import Embedder, Reranker
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.device import blas
from akidb_mlx.device.products import Products, one_by_one, products
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.model import host_encoder
from akidb_mlx.model.architectures import ARCHITECTURES, make_backbone
from akidb_mlx.model.architectures.albert import Albert
from akidb_mlx.model.architectures.bert import Bert
from akidb_mlx.model.architectures.distilbert import DistilBert
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.heads.pooled import Pooled
from akidb_mlx.model.heads.pooling import pool, pool_on_host
from akidb_mlx.model.host_states import HostStates
from akidb_mlx.model.layers import cpu_kernels, host_layers
from akidb_mlx.model.layers.activations import ACTIVATIONS
from akidb_mlx.model.layers.host_kernels import ACTIVATIONS as ON_HOST
from akidb_mlx.model.layers.host_kernels import HostNorm
from akidb_mlx.model.layers.panels import PanelLinear
from akidb_mlx.model.layers.post_norm import PostNormLayer
from akidb_mlx.model.network import Network
from akidb_mlx.model.padded_batch import pad_batch
from support.checkpoints import CASES, REFERENCE, RERANKER_CASES, RERANKERS, read_case, read_reranker_case
from support.comparison import assert_close
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(products() is None, reason="no tuned BLAS was loaded for MLX's CPU build")
FAMILIES = (Bert, Albert, DistilBert)
WAYS = ("mlx", "plain", "panels", "panels one by one")


def are_computed_on_host(folder):
    made = ARCHITECTURES.get(read_checkpoint(folder).model_type)
    return isinstance(made, type) and issubclass(made, FAMILIES)


BERTS = [name for name in CASES if are_computed_on_host(REFERENCE / name)]
LENGTHS = [[1], [9], [12, 12], [9, 4, 6], [70, 1, 33], [130], [300, 41, 512]]


def way_of(name):
    """The products that are to be found, whichever this machine's BLAS has."""
    found = products()
    if name == "mlx":
        return None
    if name == "panels one by one":
        library = blas.library()
        one = getattr(library, "cblas_sgemm")  # noqa: B009  # mypy knows no attributes of a library
        return Products(one_by_one(lambda *arguments: one(*map(_c, arguments, _KINDS))), packs=False)
    return Products(found.multiply, packs=name == "plain")


_KINDS = "iiiiiifpipifpi"


def _c(value, kind):
    import ctypes

    return {"i": ctypes.c_int, "f": ctypes.c_float, "p": ctypes.c_void_p}[kind](value)


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    found = way_of(request.param)
    monkeypatch.setattr(host_layers, "products", lambda: found)
    return request.param


def on_cpu(compute):
    def there():
        with mx.stream(mx.cpu):
            return compute()

    return DEVICE_THREADS.run(there).result(PATIENCE_S)


def test_there_are_cases_of_each_family():
    classes = {ARCHITECTURES[read_checkpoint(REFERENCE / name).model_type] for name in BERTS}
    assert len(classes) >= 6
    assert all(any(issubclass(one, family) for one in classes) for family in FAMILIES)


@pytest.mark.parametrize("name", BERTS)
def test_vectors_equal_the_references_either_way(name, way):
    folder, facts, reference = read_case(name)
    # A setting of its own, so that no model is shared with another way.
    with Embedder.load(folder, dtype="float32", device="cpu", max_queued_tokens=500_000 + WAYS.index(way)) as embedder:
        assert (embedder._loaded.engine.model.backbone.on_host is None) == (way == "mlx")
        encoders = {"embeddings": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
        for kind in encoders.keys() & reference.keys():
            assert_close(encoders[kind](facts["texts"]), reference[kind], 1e-5)
        alone = np.concatenate([embedder.encode([text]) for text in facts["texts"]])
        assert_close(alone, embedder.encode(facts["texts"]), 5e-6)


@pytest.mark.parametrize("name", [name for name in RERANKER_CASES if (RERANKERS / name / "config.json").exists()])
def test_scores_equal_the_references_by_mlx(name, monkeypatch):
    """The other way is what `test_reranker_parity` runs."""
    monkeypatch.setattr(host_layers, "products", lambda: None)
    folder, _, arrays, pairs = read_reranker_case(name)
    with Reranker.load(folder, dtype="float32", max_queued_tokens=400_000) as reranker:
        assert_close(reranker.predict(pairs, activation="identity"), arrays["logits"], 1e-5)


def layers_both_ways(lengths, *, width, heads, inner, act="gelu", spread=0.2, first_only=False):
    """Two random layers' states of rows of these lengths: by MLX, and on the host."""

    def compute():
        mx.random.seed(3)
        layers = [PostNormLayer(width, heads, inner, ACTIVATIONS[act], 1e-12) for _ in range(2)]
        for layer in layers:
            layer.apply(lambda weight: mx.random.normal(weight.shape) * spread)
        rng = np.random.default_rng(4)
        x = [rng.standard_normal((length, width)).astype(np.float32) for length in lengths]
        expected = []
        for row in x:
            state = mx.array(row[None])
            for layer in layers[:-1]:
                state = layer(state, None)
            state = layers[-1].first(state, None) if first_only else layers[-1](state, None)
            expected.append(np.array(state[0]))
        on_host = host_layers.HostLayers.of(layers)
        states = HostStates(np.concatenate(x), np.array(lengths, np.int32), max(lengths))

        def fill(to, spare):
            to[:], spare[:] = states.tokens, np.nan

        with np.errstate(all="ignore"):
            return np.concatenate(expected), on_host(fill, states.spans, first_only=first_only)

    return on_cpu(compute)


@pytest.mark.parametrize("first_only", [False, True], ids=["all", "first"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("way", WAYS[1:], indirect=True)
def test_layers_equal_mlxs(lengths, first_only, way):
    expected, found = layers_both_ways(lengths, width=48, heads=4, inner=74, first_only=first_only)
    assert len(expected) == (len(lengths) if first_only else sum(lengths))
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("width, heads, inner", [(32, 2, 37), (128, 2, 512), (384, 12, 1536)])
@pytest.mark.parametrize("way", WAYS[1:3], indirect=True)
def test_layers_of_any_size(width, heads, inner, act, way):
    expected, found = layers_both_ways([17, 131], width=width, heads=heads, inner=inner, act=act, spread=width**-0.5)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("way", WAYS[1:3], indirect=True)
def test_scores_beyond_what_exponentials_hold(way):
    """Where one token is seen alone: e to the power of such scores is infinite."""
    expected, found = layers_both_ways([9, 30], width=32, heads=2, inner=64, spread=4.0)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("width, inner", [(32, 37), (32, 200), (384, 1536)])
@pytest.mark.parametrize("count, longest", [(1, 1), (15, 15), (70, 9), (600, 512)])
def test_parts_of_the_memory_to_compute_in(width, inner, count, longest):
    """They lie in it and apart, but for the inner numbers, which come when queries, keys and scores are used."""
    layer = SimpleNamespace(width=width, heads=2, up=SimpleNamespace(outputs=inner))
    arena = np.empty(host_layers._Scratch.size(layer, count, longest), np.float32)
    made = host_layers._Scratch(layer, count, longest, arena)
    always = [made.attended, made.sums, made.states, *made.parts]
    first = [made.qkv, made.scores, made.score_sums]
    assert [len(part) >= count for part in (made.attended, made.sums, made.states, made.qkv, made.inner)] == [True] * 5
    assert made.scores.size == 2 * longest**2
    for together in ([*always, *first], [*always, made.inner]):
        spans = sorted((part.ctypes.data, part.ctypes.data + part.nbytes) for part in together)
        assert spans[0][0] >= arena.ctypes.data
        assert spans[-1][1] <= arena.ctypes.data + arena.nbytes
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


def test_memory_to_compute_in_is_the_threads_own_and_given_back():
    layers = host_layers.HostLayers([], products().multiply)
    small = layers._arena(10)
    assert layers._arena(len(small)) is small
    gone = weakref.ref(small)
    large = layers._arena(len(small) + 1)
    del small
    assert gone() is None
    assert layers._arena(10) is large
    layers._arena(host_layers._KEPT + 1)
    assert layers._arena(10) is large
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(layers._arena, 10).result() is not large
    large[0] = 1.0
    child = os.fork()
    if not child:
        large[0] = 2.0
        os._exit(0)
    os.waitpid(child, 0)
    assert large[0] == 1.0


def test_what_loading_leaves_behind_is_given_back():
    """Weights are laid out anew: as much freed memory would stay with MLX, unused."""

    def leave():
        mx.eval(mx.zeros(1 << 20))
        return mx.get_cache_memory()

    assert on_cpu(leave) >= 4 << 20
    with Embedder.load(REFERENCE / "bert-minilm-like", device="cpu", max_queued_tokens=600_001):
        assert on_cpu(mx.get_cache_memory) < 1 << 20


def test_rows_that_a_table_lacks():
    """np.take would give the last one."""
    table = np.zeros((5, 2), np.float32)
    host_encoder._read(table, np.array([4, 0]), np.empty((2, 2), np.float32))
    with pytest.raises(IndexError, match="row 5"):
        host_encoder._read(table, np.array([5, 0]), np.empty((2, 2), np.float32))


def test_other_activations_are_left_to_mlx():
    layer = PostNormLayer(32, 2, 64, ACTIVATIONS["silu"], 1e-12)
    assert host_layers.HostLayers.of([layer]) is None
    assert isinstance(layer.up, nn.Linear)


@pytest.mark.parametrize("outputs", [16, 37, 64, 96, 130, 1536])
def test_panels_of_any_width(outputs):
    def compute():
        mx.random.seed(5)
        layer = nn.Linear(24, outputs)
        x = mx.random.normal((3, 5, 24))
        panels = PanelLinear(layer)
        assert panels.weight.size == layer.weight.size
        return np.array(panels(x)), np.array(layer(x))

    found, expected = on_cpu(compute)
    assert_close(found, expected)


def exact(name, x):
    x = x.astype(np.float64)
    if name == "gelu":
        return x * 0.5 * np.array([math.erfc(-one / math.sqrt(2)) for one in x])
    if name == "gelu_new":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return np.maximum(x, 0)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu"])
def test_activations_are_exact(name):
    x = np.concatenate([np.linspace(-12, 12, 20_001), [-1e4, 1e4, 0.0]]).astype(np.float32)
    expected, found = exact(name, x), x.copy()
    with np.errstate(all="ignore"):
        ON_HOST[ACTIVATIONS[name]](found, np.empty_like(x), np.empty_like(x))
    assert np.abs(found - expected).max() < 1e-6


def test_norm():
    rng = np.random.default_rng(6)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 40), 40, 40))
    x = 3 * x + 50
    found = np.empty_like(x)
    HostNorm(weight, bias, 1e-5)(x, np.empty_like(x), found)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("modes", [("cls",), ("mean",), ("mean", "cls")], ids="+".join)
def test_pooling_equals_mlxs(modes):
    lengths, prompts = np.array([5, 3, 1, 4], np.int32), np.array([0, 2, 0, 4], np.int32)
    tokens = np.random.default_rng(7).standard_normal((13, 6)).astype(np.float32)
    states = HostStates(tokens, lengths, 5)

    def compute():
        return np.array(pool(mx.array(states.padded()), np.array(lengths), np.array(prompts), modes))

    assert_close(pool_on_host(states, prompts, modes), on_cpu(compute))


def test_other_modes_are_left_to_mlx():
    states = HostStates(np.zeros((3, 6), np.float32), np.array([3], np.int32), 3)
    assert pool_on_host(states, np.array([0]), ("mean", "max")) is None


CONFIG = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 600,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
ROBERTA = CONFIG | {"model_type": "roberta", "pad_token_id": 7}


@pytest.mark.parametrize("config", [CONFIG, ROBERTA], ids=["bert", "roberta"])
@pytest.mark.parametrize("length", [12, cpu_kernels.LONG + 8], ids=["on the host", "too long for it"])
def test_second_texts_and_pads_within_texts(config, length):
    """Token types of a pair, and a pad token that a text contains: it has the pad's position in RoBERTa."""

    def compute():
        mx.random.seed(8)
        backbone = make_backbone(config)
        backbone.apply(lambda weight: mx.random.normal(weight.shape) * 0.2)
        rng = np.random.default_rng(9)
        rows = [rng.integers(8, 100, count).astype(np.int32) for count in (length, 7)]
        rows[0][4] = rows[1][2] = config["pad_token_id"]
        padded = pad_batch([Encoding(row, second_start=3) for row in rows], length)
        before = Network(backbone, Pooled(32, ["mean"], []))(padded)
        mx.eval(before)
        backbone.settle_on_cpu()
        assert backbone.on_host.serves(padded) == (length <= cpu_kernels.LONG)
        network = Network(backbone, Pooled(32, ["mean"], []))
        after, by_mlx = network(padded), backbone(DeviceBatch.of(padded))
        rows = np.array(before), np.array(after), np.array(by_mlx)
        network.let_go()
        assert backbone.on_host is None  # or its views would keep the weights
        return rows

    before, after, _ = on_cpu(compute)
    assert_close(after, before, 1e-5)
