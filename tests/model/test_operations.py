"""How many operations MLX is given for a batch as on a GPU, and that they give the reference's vectors.

`MOST` is what they are now, per family and shape. A GPU's lone query takes most of its time to start them, so a change
that adds one has a reason, and raises the number here; a change that takes one out lowers it.
"""

import runpy

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx import Embedder
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.model.layers import cpu_kernels, host_layers
from akidb_mlx.model.layers.masks import RowMask
from akidb_mlx.model.layers.products import Product, add_product, settle_products
from support.checkpoints import CASES, REFERENCE, read_case
from support.comparison import assert_close
from support.device import DEVICE
from support.places import ROOT

pytestmark = pytest.mark.skipif(DEVICE.kind != "cpu", reason="pretends a GPU over the CPU")
COUNTING = runpy.run_path(str(ROOT / "benchmarks" / "operations.py"))
# Of a query, the same padded as on CUDA, rows of equal lengths, rows of others; families of two layers or three.
MOST = {
    "bert-minilm-like": (53, 55, 56, 62),
    "bert-cls": (53, 55, 55, 62),
    "xlm-roberta-e5": (53, 55, 56, 62),
    "mpnet-mean": (58, 63, 62, 67),
    "modernbert-cls": (65, 80, 65, 85),
    "nomic-published": (48, 50, 49, 55),
    "gte-base-en": (55, 57, 55, 62),
    "t5-sentence": (45, 50, 47, 52),
    "qwen3-embedding": (53, 54, 53, 56),
    "llama-bidirectional": (45, 47, 46, 52),
    "gemma-mean": (49, 50, 50, 51),
    "embeddinggemma": (96, 111, 97, 116),
}
PINNED = pytest.mark.skipif(
    f"\nmlx=={mx.__version__}\n" not in (ROOT / "constraints.txt").read_text(),
    reason="another MLX may make another number of operations of the same",
)
# Every family in one form at least, and all that attention takes.
SHOWN = [name for name in CASES if name.startswith("heads-") or name in MOST]


@PINNED
@pytest.mark.parametrize("name", MOST)
def test_no_batch_takes_more_operations(name):
    with Embedder.load(REFERENCE / name) as embedder:
        found = [COUNTING["count_batch"](embedder, *batch).total() for batch in COUNTING["SHAPES"].values()]
    assert all(count <= most for count, most in zip(found, MOST[name], strict=True)), found


@PINNED
def test_they_are_all_counted():
    """A layer of MLX's, of (rows, length, width), is five: ours, of (tokens, width), two."""
    layer, x = nn.Linear(4, 4), mx.zeros((1, 3, 4))
    mx.eval(layer.parameters(), x)
    assert COUNTING["primitives"](layer(x)) == {"AddMM": 1, "Broadcast": 1, "Transpose": 1, "Reshape": 2}
    flat = x.reshape(3, 4)
    mx.eval(flat)
    assert COUNTING["primitives"](Product.of(layer)(flat), mx.exp(flat)) == {
        "AddMM": 1,
        "Broadcast": 1,
        "Transpose": 1,  # of the view, which nobody has evaluated yet
        "Exp": 1,
    }


@pytest.mark.parametrize("gpu", ["cuda", "metal"])
@pytest.mark.parametrize("name", SHOWN)
def test_vectors_equal_the_references_without_the_cpus_kernels(name, gpu, monkeypatch):
    """By MLX's own operations with masks as on that GPU; each text alone and padded, then all."""
    monkeypatch.setattr(host_layers, "products", lambda: None)
    monkeypatch.setattr(cpu_kernels, "computes_on_cpu", lambda x: False)
    folder, facts, reference = read_case(name)
    with Embedder.load(folder, dtype="float32") as embedder:
        monkeypatch.setattr(mx.metal, "is_available", lambda: gpu == "metal")
        scheduler = embedder._loaded.engine.scheduler
        monkeypatch.setattr(scheduler, "_shapes", Shapes(length_multiple=8))
        encoders = {"embeddings": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
        for kind in encoders.keys() & reference.keys():
            alone = np.concatenate([encoders[kind]([text]) for text in facts["texts"]])
            assert_close(alone, reference[kind], 1e-5)
            assert_close(encoders[kind](facts["texts"]), reference[kind], 1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
def test_products_are_those_of_the_layer(bias, shape):
    model = nn.Module()
    model.parts = [nn.Linear(8, 8, bias=bias)]
    model.only = nn.Linear(8, 8, bias=bias)
    layers, x = [*model.parts, model.only], mx.random.normal(shape)
    expected = [layer(x) for layer in layers]
    settle_products(model)
    settled = [*model.parts, model.only]
    assert all(type(layer) is Product for layer in settled)
    assert set(dict(nn.utils.tree_flatten(model.parameters()))) == {
        f"{place}.{kind}" for place in ("parts.0", "only") for kind in ("weight", "bias")[: 1 + bias]
    }
    for layer, ours in zip(settled, expected, strict=True):
        assert_close(np.array(layer(x)), np.array(ours), 1e-6)
        assert_close(np.array(add_product(x, layer, x)), np.array(x + ours), 1e-6)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_what_a_row_with_padding_adds_to_its_scores(dtype):
    mask = RowMask(6, 4)
    added = mask.added(dtype)
    assert added.dtype == dtype and added.shape == (1, 1, 1, 6)
    assert mx.array_equal(added[0, 0, 0], mx.where(mx.arange(6) < 4, mx.array(0, dtype), mx.finfo(dtype).min))
    assert mask.block(0, 6)[1].tolist() == [[[[True] * 4 + [False] * 2]]]
