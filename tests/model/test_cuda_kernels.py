"""CUDA's kernels give what MLX's operations give, and models that compute with them the reference's vectors."""

import ast
import inspect
import textwrap

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.model.architectures.decoder_table import DECODERS
from akidb_mlx.model.architectures.mlx_lm import import_model
from akidb_mlx.model.layers import cuda_kernels
from support import cuda_stand_ins
from support.checkpoints import CASES, read_case
from support.comparison import assert_close

CUDA = pytest.mark.skipif(not mx.cuda.is_available(), reason="needs CUDA")
PLAIN = """\
r = self.self_attn(self.input_layernorm(x), mask, cache)
h = x + r
r = self.mlp(self.post_attention_layernorm(h))
out = h + r
return out"""
# `clip_residual` is a sum, but in float16, which such models do not take.
NORMED_AFTER = """\
r = self.self_attn(self.input_layernorm(x), mask, cache)
h = clip_residual(x, self.post_attention_layernorm(r))
r = self.mlp(self.pre_feedforward_layernorm(h))
out = clip_residual(h, self.post_feedforward_layernorm(r))
return out"""
DTYPES = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 1.6e-2}  # two steps of each 16-bit dtype


# A kernel serves rows of whole parts of 128, and heads of 64 and 128 with positions.
SERVED = [name for name in CASES if name.startswith("heads-")]


def random(*shape, dtype="float32"):
    return mx.array(np.random.default_rng(0).normal(size=shape).astype(np.float32)).astype(getattr(mx, dtype))


def close(ours, theirs, dtype):
    ours, theirs = ours.astype(mx.float32), theirs.astype(mx.float32)
    return (mx.abs(ours - theirs) / mx.maximum(mx.abs(theirs), 1)).max().item() <= DTYPES[dtype]


@CUDA
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 7, 128), (5, 33, 384), (2, 9, 768), (1, 1, 1024), (2, 5, 2048)])
def test_norms_of_sums(shape, dtype):
    x, y = random(*shape, dtype=dtype), random(*shape[::-1], dtype=dtype).reshape(shape)
    weight, bias = random(shape[-1], dtype=dtype), random(shape[-1], dtype=dtype) + 1
    for other in (y, y[0]):
        ours = cuda_kernels.add_layer_norm(x, other, weight, bias, 1e-12)
        assert close(ours, cuda_stand_ins.add_layer_norm(x, other, weight, bias, 1e-12), dtype)
    for one, two in zip(
        cuda_kernels.add_rms_norm(x, y, weight, 1e-6), cuda_stand_ins.add_rms_norm(x, y, weight, 1e-6), strict=True
    ):
        assert close(one, two, dtype)


@CUDA
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(dtype):
    x = random(3, 7, 512, dtype=dtype) * 3
    assert close(cuda_kernels.gelu(x), cuda_stand_ins.gelu(x.astype(mx.float32)), dtype)
    assert close(cuda_kernels.silu_gate(x), cuda_stand_ins.silu_gate(x.astype(mx.float32)), dtype)


@CUDA
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [128, 384, 4096])
def test_means(width, dtype):
    hidden = random(4, 9, width, dtype=dtype)
    hidden[1, 3] = 0  # a token that was not computed
    hidden[2, 8] = 0  # padding
    lengths, starts = mx.array([9, 9, 5, 3]), mx.array([0, 0, 2, 3])
    ours = np.array(cuda_kernels.mean_pool(hidden, lengths, starts))
    theirs = np.array(cuda_stand_ins.mean_pool(hidden, lengths, starts))
    assert np.isposinf(ours[1]).all()
    np.testing.assert_allclose(np.delete(ours, 1, 0), np.delete(theirs, 1, 0), atol=2e-6)


@CUDA
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head"), [(4, 2, 128), (3, 3, 64), (8, 1, 64)])
@pytest.mark.parametrize("normed", [False, True])
def test_turned_heads(heads, kv_heads, head, normed, dtype):
    qkv = random(2, 70, (heads + 2 * kv_heads) * head, dtype=dtype)
    periods = mx.array((1e4 ** (np.arange(head // 2) * 2 / head)).astype(np.float32))
    norms = (random(head, dtype=dtype), random(head, dtype=dtype) + 1, 1e-6) if normed else None
    ours = cuda_kernels.rope_of_heads(qkv, heads, kv_heads, periods, norms)
    theirs = cuda_stand_ins.rope_of_heads(qkv, heads, kv_heads, periods, norms)
    assert all(close(one, other, dtype) for one, other in zip(ours, theirs, strict=True))


@CUDA
@pytest.mark.parametrize("name", SERVED)
def test_vectors_equal_the_references_with_kernels_for_few_rows_too(name, monkeypatch):
    monkeypatch.setattr(cuda_kernels.tuning, "is_on", lambda name: name == "kernels")
    monkeypatch.setattr(cuda_kernels, "_MANY", 0)
    cuda_kernels._work.cache_clear()
    try:
        compare(name)
    finally:
        cuda_kernels._work.cache_clear()


@pytest.mark.parametrize("name", SERVED)
def test_vectors_equal_the_references_with_stand_ins(name, monkeypatch):
    """What is computed with the kernels is the reference's, whatever computes them."""
    cuda_stand_ins.use(monkeypatch)
    compare(name)


def compare(name):
    folder, facts, reference = read_case(name)
    with Embedder.load(folder, dtype="float32") as embedder:
        encoders = {"embeddings": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
        for kind in encoders.keys() & reference.keys():
            assert_close(encoders[kind](facts["texts"]), reference[kind], 1e-5)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("heads-64-mpnet", {"add_layer_norm", "mean_pool"}),
        ("heads-64-gte-qwen2", {"add_rms_norm", "rope_of_heads"}),
        ("heads-128-qwen3", {"rope_of_heads"}),
    ],
)
def test_the_kernels_are_used(name, kernels, monkeypatch):
    used = cuda_stand_ins.use(monkeypatch)
    compare(name)
    assert kernels <= used


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_compiler_reads_is_of_one_dtype(dtype, monkeypatch):
    """It compiles what is done with the norms' weights where there are none as well."""
    given = []

    def kernel(**call):
        given.extend(call["inputs"])
        return [
            mx.zeros(shape, dtype) for shape, dtype in zip(call["output_shapes"], call["output_dtypes"], strict=True)
        ]

    monkeypatch.setattr(cuda_kernels, "_kernel", lambda *_: kernel)
    cuda_kernels.rope_of_heads(random(1, 3, 8 * 64, dtype=dtype), 4, 2, mx.zeros(32), None)
    x, q_weight, k_weight, periods = given
    assert x.dtype == q_weight.dtype == k_weight.dtype and periods.dtype == mx.float32


def test_a_model_on_the_cpu_takes_none_whoever_asked_first(monkeypatch):
    """They are compiled once in a process, which may have models on both."""
    monkeypatch.setattr(cuda_kernels, "_MANY", 0)
    monkeypatch.setattr(cuda_kernels, "_work", lambda: True)
    for device, served in ((mx.gpu, True), (mx.cpu, False), (mx.gpu, True)):
        monkeypatch.setattr(cuda_kernels.mx, "default_device", lambda device=device: device)
        assert cuda_kernels.serves(mx.zeros((1, 1, 128))) is served
        assert cuda_kernels.may_serve(128) is served


def test_one_that_cannot_be_compiled_is_told_and_left_out(monkeypatch, caplog):
    class Cuda:
        is_available = staticmethod(lambda: True)

    def fails(*_):
        raise RuntimeError("nvrtc: error: no such file")

    monkeypatch.setattr(cuda_kernels.tuning, "is_on", lambda name: name == "kernels")
    monkeypatch.setattr(cuda_kernels, "_MANY", 0)
    monkeypatch.setattr(cuda_kernels.mx, "cuda", Cuda)
    monkeypatch.setattr(cuda_kernels.mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(cuda_kernels, "add_layer_norm", fails)
    cuda_kernels._work.cache_clear()
    try:
        assert not cuda_kernels.serves(mx.zeros((1, 1, 128)))
        assert not cuda_kernels.serves(mx.zeros((1, 1, 128)))
    finally:
        cuda_kernels._work.cache_clear()
    assert [record.message for record in caplog.records] == [
        "CUDA kernels of akidb-mlx are off, MLX's own serve (slower): nvrtc: error: no such file"
    ]


def test_layers_of_the_plain_form_are_what_is_computed_for_them():
    """`Decoder` computes them itself, flat or with sums and norms together: mlx-lm's own must say the same."""
    plain = {family.module: family for family in DECODERS.values() if family.plain}
    assert {family.norms_after for family in plain.values()} == {False, True}
    for module, family in plain.items():
        layer = next(
            found
            for name, found in vars(import_model(module)).items()
            if inspect.isclass(found) and name.endswith(("TransformerBlock", "DecoderLayer"))
        )
        (call,) = ast.parse(textwrap.dedent(inspect.getsource(layer.__call__))).body
        assert "\n".join(map(ast.unparse, call.body)) == (NORMED_AFTER if family.norms_after else PLAIN), module
