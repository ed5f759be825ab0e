"""Weights that mlx-lm's converter packed equal their dequantised selves; what cannot be unpacked is refused."""

import contextlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.checkpoint.heads import PooledHead
from akidb_mlx.device.choice import Device
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.layers.experts import Mixture
from akidb_mlx.model.loading import load_model
from akidb_mlx.model.padded_batch import pad_batch
from akidb_mlx.model.quantization import check_computed, dequantize, quantize_modules
from support.checkpoints import REFERENCE, read_task_case
from support.comparison import assert_close, cosines
from support.device import DEVICE
from support.packed import dequantise
from support.weights import save_weights

GPU = Device("cuda", "pretended", 4096, Shapes(), cache_limit_mb=512, survives_fork=False)
# Rows of a packed checkpoint and of the floats it stands for; a GPU has other kernels for packed numbers.
EXACT = 1e-5 if DEVICE.keeps_quantization else 1e-6
# The mode's name → the converter's arguments.
PACKINGS = {
    "2 bit": {"bits": 2, "group_size": 32},
    "3 bit": {"bits": 3, "group_size": 32},
    "4 bit": {"bits": 4, "group_size": 32},
    "5 bit": {"bits": 5, "group_size": 32},
    "6 bit": {"bits": 6, "group_size": 32},
    "8 bit": {"bits": 8, "group_size": 32},
    "mxfp4": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    "mxfp8": {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    "nvfp4": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
}
DECODERS = ["qwen3-embedding", "llama-linear", "mistral-e5", "gemma-mean", "phi3", "lfm2-causal-lm"]
# Heads as wide as real models', for GPUs' fused attention.
WIDE_HEADS = ["heads-64-llama", "heads-96-qwen3", "heads-128-qwen3", "heads-256-gemma3"]
# Experts one by one, which mlx-lm's converter puts together, and as it has them; it leaves ERNIE's correction out.
MIXTURES = ["lfm2-moe", "mixtral-causal-lm", "heads-128-qwen3-moe", "qwen2-moe", "olmoe", "heads-64-granitemoe"]
# Least cosine with the float32 vectors of these tiny random models, whose weights are no easier to pack than noise.
LEAST_COSINE = {"4 bit": 0.9, "5 bit": 0.97, "6 bit": 0.99, "8 bit": 0.999, "mxfp4": 0.7, "mxfp8": 0.99, "nvfp4": 0.8}
if tuple(map(int, mx.__version__.split(".")[:3])) < (0, 32, 3):  # which packs mxfp8 more coarsely
    LEAST_COSINE["mxfp8"] = 0.95


# What mlx-lm's classes want, and transformers 5 saves under another name or not at all.
ALIASES = [("num_experts", "num_local_experts"), ("num_local_experts", "num_experts")]


def read_texts(name):
    return json.loads((REFERENCE / name / "reference.json").read_text(encoding="utf-8"))["texts"]


def convert(name, folder, packing, predicate=None):
    """What mlx-lm's converter makes of a tiny checkpoint: its classes, its quantize_model, its files."""
    with mock.patch("resource.setrlimit"):  # its import lowers the limit of open files, children's too, for good
        from mlx_lm import utils

    shutil.copytree(REFERENCE / name, folder)
    config = json.loads((folder / "config.json").read_text())
    weights = mx.load(str(folder / "model.safetensors"))
    dense = {key: weights.pop(key) for key in list(weights) if key.startswith("dense.")}
    model_class, args_class = utils._get_classes(config)
    counts = {name: config[other] for name, other in ALIASES if other in config and config[other] is not None}
    model = model_class(args_class.from_dict(config | {"rope_theta": 10000.0, "rope_scaling": None} | counts))
    weights = {key if key.startswith(("model.", "lm_head.")) else f"model.{key}": w for key, w in weights.items()}
    weights = {key: weight.astype(mx.float32) for key, weight in weights.items()}
    model.load_weights(
        list(model.sanitize(weights).items() if hasattr(model, "sanitize") else weights.items()), strict=False
    )
    arguments = {"mode": "affine", **packing}
    model, config = utils.quantize_model(model, config, **arguments, quant_predicate=predicate)
    (folder / "model.safetensors").unlink()
    utils.save_model(folder, model)
    utils.save_config(config, folder / "config.json")
    if dense:
        add_weights(
            folder, packed_by_hand({key: weight.astype(mx.float32) for key, weight in dense.items()}, arguments)
        )
    return folder


def packed_by_hand(weights, packing):
    """Every matrix that is wide enough, quantised."""
    packed = {}
    for key, weight in weights.items():
        if weight.ndim == 2 and key.endswith(".weight") and weight.shape[1] % packing["group_size"] == 0:
            parts = mx.quantize(weight, **packing)
            packed.update(zip((key, f"{key[:-7]}.scales", f"{key[:-7]}.biases"), parts, strict=False))
        else:
            packed[key] = weight
    return packed


def add_weights(folder, weights):
    save_weights(folder / "model.safetensors", mx.load(str(folder / "model.safetensors")) | weights)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)


def encode(folder, texts):
    """In float32, also where a GPU would compute in the dtype of the scales."""
    with Embedder.load(folder, dtype="float32") as embedder:
        return embedder.encode(texts)


def packed_channels(folder):
    """Outputs of all layers that are quantised in the checkpoint, but for what its vectors do not need."""
    weights = mx.load(str(folder / "model.safetensors"))
    keys = [key for key in weights if key.endswith(".scales") and not key.startswith(("lm_head.", "pooler."))]
    keys = [key for key in keys if ".router." not in key]  # never kept packed
    return sum(weights[key.replace(".scales", ".weight")].shape[0] for key in keys)


def joined_layers(folder):
    """How many products of one input are joined."""
    checkpoint = read_checkpoint(folder)
    model = load_model(checkpoint, PooledHead(checkpoint.pooling), GPU)
    return sum(name.endswith(("qkv_proj", "gate_up_proj")) for name, _ in model.named_modules())


def rows_as_on_a_gpu(folder, texts):
    """The rows of a model that keeps its packed weights, and how many channels its layers give so."""
    with Embedder.load(folder) as embedder:
        ids = embedder._loaded.tokenizer.tokenize(texts).token_ids
    checkpoint = read_checkpoint(folder)
    model = load_model(checkpoint, PooledHead(checkpoint.pooling), GPU)
    rows = np.array(model(pad_batch(list(map(Encoding, ids)), max(map(len, ids)))))
    quantised = [m for m in model.modules() if isinstance(m, nn.QuantizedLinear | nn.QuantizedEmbedding)]
    kept = sum(module.weight.shape[0] for module in quantised)  # joined layers give the channels of all
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), kept


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_equals_its_dequantised_self(tmp_path, packing):
    texts = read_texts("qwen3-embedding")
    folder = convert("qwen3-embedding", tmp_path / "packed", PACKINGS[packing])
    ours = encode(folder, texts)
    assert_close(ours, encode(dequantise(folder, tmp_path / "floats"), texts), EXACT)
    kept_rows, kept = rows_as_on_a_gpu(folder, texts)
    assert kept == packed_channels(folder) > 0
    assert_close(ours, kept_rows, 1e-5)
    original = np.load(REFERENCE / "qwen3-embedding" / "reference.npz")["embeddings"]
    assert cosines(ours, original).min() >= LEAST_COSINE.get(packing, 0)


@pytest.mark.parametrize("name", [*DECODERS, *WIDE_HEADS, *MIXTURES, "embeddinggemma-folded"])
def test_decoders_in_4_bit(tmp_path, name):
    texts = read_texts(name)
    folder = convert(name, tmp_path / "packed", PACKINGS["4 bit"])
    assert any(key.endswith(".scales") for key in mx.load(str(folder / "model.safetensors")))
    ours = encode(folder, texts)
    assert_close(ours, encode(dequantise(folder, tmp_path / "floats"), texts), EXACT)


@pytest.mark.parametrize("name", ["mixtral-causal-lm", "heads-128-qwen3-moe", "lfm2-moe"])
@pytest.mark.parametrize("packing", ["4 bit", "mxfp8"])
def test_experts_stay_packed_on_a_gpu(tmp_path, name, packing):
    """All but the router, which always is of floats."""
    texts = read_texts(name)
    folder = convert(name, tmp_path / "packed", PACKINGS[packing])
    names = mx.load(str(folder / "model.safetensors")).keys()
    assert any(key.endswith("gate.scales") for key in names)
    checkpoint = read_checkpoint(folder)
    model = load_model(checkpoint, PooledHead(checkpoint.pooling), GPU)
    mixtures = [module for module in model.modules() if isinstance(module, Mixture)]
    assert mixtures
    for mixture in mixtures:
        assert mixture.router.weight.dtype == mx.float32
        assert {layer.weight.dtype for layer in mixture.experts.children().values()} == {mx.uint32}
    assert_close(encode(folder, texts), rows_as_on_a_gpu(folder, texts)[0], 1e-5)


def test_scales_in_bfloat16_are_read_exactly(tmp_path):
    """As conversions of bfloat16 checkpoints have them: dequantising in bfloat16 would round each weight."""
    texts = read_texts("qwen3-embedding")
    folder = convert("qwen3-embedding", tmp_path / "packed", PACKINGS["4 bit"])
    file = str(folder / "model.safetensors")
    weights = {
        key: weight.astype(mx.bfloat16).astype(mx.float32) if key.endswith((".scales", ".biases")) else weight
        for key, weight in mx.load(file).items()
    }
    save_weights(file, weights)
    expected = encode(folder, texts)
    stored = {
        key: weight.astype(mx.bfloat16) if key.endswith((".scales", ".biases")) else weight
        for key, weight in weights.items()
    }
    save_weights(file, stored)
    assert_close(encode(folder, texts), expected, EXACT)


@pytest.mark.skipif(not DEVICE.keeps_quantization, reason="needs a GPU")
@pytest.mark.parametrize(
    ("name", "packing"),
    [*(("qwen3-embedding", packing) for packing in PACKINGS), *((name, "8 bit") for name in WIDE_HEADS)],
)
def test_a_gpu_keeps_them_packed(tmp_path, name, packing):
    texts = read_texts(name)
    folder = convert(name, tmp_path / "packed", PACKINGS[packing])
    with Embedder.load(folder) as gpu, Embedder.load(folder, device="cpu", dtype="float32") as cpu:
        assert gpu.info()["parameter_bytes"] < cpu.info()["parameter_bytes"]
        assert cosines(gpu.encode(texts), cpu.encode(texts)).min() >= 0.999


def test_folded_dense_layers_are_unpacked(tmp_path):
    folder = convert("embeddinggemma-folded", tmp_path / "packed", PACKINGS["8 bit"])
    names = mx.load(str(folder / "model.safetensors")).keys()
    assert {"dense.0.scales", "dense.1.scales", "dense.0.biases"} <= names
    texts = read_texts("embeddinggemma-folded")
    ours = encode(folder, texts)
    original = np.load(REFERENCE / "embeddinggemma-folded" / "reference.npz")["embeddings"]
    assert cosines(ours, original).min() > 0.99


@pytest.mark.parametrize("packing", ["8 bit", "mxfp8", "nvfp4"])
@pytest.mark.parametrize(
    "name",
    [
        "heads-64-bert",
        "distilbert-mean",
        "xlm-roberta-cls",
        "roberta-mean",
        "modernbert-cls",
        "nomic-transformers-5",
        "heads-64-nomic-moe",
        "gte-base-en",
        "eurobert-mean",
        "mpnet-mean",
        "heads-64-modernbert",
        "heads-64-mpnet",
        "heads-64-t5",
        "heads-64-albert",
        "heads-64-electra",
        "ernie-task",
        "deberta-mean",
        "heads-64-deberta-v2",
        "heads-64-jina-v2",
        "embedding-gemma2",
        "heads-256-embedding-gemma2",
        "lfm2-is-causal-false",
        "heads-64-lfm2",
    ],
)
def test_encoders_with_everything_packed(tmp_path, name, packing):
    """Tables, whose rows are added in the dtype that is computed in; joined layers, on a GPU packed side by side."""
    check_everything_packed(tmp_path, name, packing)


@pytest.mark.parametrize(
    "name",
    [
        "apertus",
        "cohere2",
        "exaone4",
        "gpt_neox",
        "gptj-weighted-mean",
        "internlm3",
        "llama-dynamic",
        "olmo",
        "olmo3",
        "phi",
        "phi3-longrope",
        "starcoder2",
    ],
)
def test_decoders_with_everything_packed(tmp_path, name):
    check_everything_packed(tmp_path, name, "4 bit")


def check_everything_packed(tmp_path, name, packing):
    texts = read_texts(name)
    folder = tmp_path / "packed"
    shutil.copytree(REFERENCE / name, folder)
    weights = {key: weight.astype(mx.float32) for key, weight in mx.load(str(folder / "model.safetensors")).items()}
    packing = {"mode": "affine", **PACKINGS[packing]}
    save_weights(folder / "model.safetensors", packed_by_hand(weights, packing))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization": packing}))
    ours = encode(folder, texts)
    assert_close(ours, encode(dequantise(folder, tmp_path / "floats"), texts), 1e-5)
    kept_rows, kept = rows_as_on_a_gpu(folder, texts)
    assert kept == packed_channels(folder) > 0
    unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    assert_close(unit, kept_rows, 1e-5)


@pytest.mark.parametrize("name", ["jina-v3-hf", "jina-v5-nano", "jina-v5-small"])
def test_adapters_over_packed_weights(tmp_path, name):
    """They are not merged, so that the shared weights stay as they are packed."""
    source, facts, _ = read_task_case(name)
    folder, packing = tmp_path / "packed", {"mode": "affine", **PACKINGS["4 bit"]}
    shutil.copytree(source, folder)
    weights = {key: weight.astype(mx.float32) for key, weight in mx.load(str(folder / "model.safetensors")).items()}
    save_weights(folder / "model.safetensors", packed_by_hand(weights, packing))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization": packing}))
    floats, checkpoint = dequantise(folder, tmp_path / "floats"), read_checkpoint(folder)
    model = load_model(checkpoint, PooledHead(checkpoint.pooling), GPU, "float32")
    assert any(isinstance(module, nn.QuantizedLinear) for module in model.adapted[facts["tasks"][1]].modules())
    for task in facts["tasks"][1:3]:
        with Embedder.load(folder, dtype="float32", task=task) as ours, Embedder.load(floats, task=task) as theirs:
            rows = ours.encode(facts["texts"])
            assert_close(rows, theirs.encode(facts["texts"]), 1e-5)
            ids = ours._path.encoder.encode(facts["texts"], ours._prompts.choose()).encodings
        encodings = [replace(encoding, task=task) for encoding in ids]
        kept = np.array(model(pad_batch(encodings, max(map(len, encodings)))))
        assert_close(rows, kept / np.linalg.norm(kept, axis=1, keepdims=True), 1e-5)


def test_layers_with_packings_of_their_own(tmp_path):
    """A dict or false for single layers, as mlx-lm's mixed recipes write it."""

    def predicate(path, module):
        if path.endswith("down_proj"):
            return {"group_size": 64, "bits": 6}
        return not path.endswith("o_proj")

    texts = read_texts("qwen3-embedding")
    folder = convert("qwen3-embedding", tmp_path / "packed", PACKINGS["4 bit"], predicate)
    said = json.loads((folder / "config.json").read_text())["quantization"]
    assert said["model.layers.0.mlp.down_proj"] == {"group_size": 64, "bits": 6}
    names = mx.load(str(folder / "model.safetensors")).keys()
    assert "model.layers.0.self_attn.o_proj.scales" not in names
    ours = encode(folder, texts)
    assert_close(ours, rows_as_on_a_gpu(folder, texts)[0], 1e-5)
    assert rows_as_on_a_gpu(folder, texts)[1] == packed_channels(folder)
    assert joined_layers(folder) == 4  # two in each of two layers: q, k, v and gate, up are alike
    assert_close(ours, encode(dequantise(folder, tmp_path / "floats"), texts), EXACT)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("method", [{"quant_method": "bitsandbytes"}, {}], ids=["named", "old form"])
def test_other_quantisers_are_refused(tmp_path, method):
    shutil.copytree(REFERENCE / "llama-linear", tmp_path / "model")
    edit_config(tmp_path / "model", quantization_config={**method, "load_in_8bit": False, "load_in_4bit": True})
    with pytest.raises(UnsupportedModelError, match=r"quantised with 'bitsandbytes'.*MLX conversion"):
        Embedder.load(tmp_path / "model")


def test_an_unknown_mode_is_refused(tmp_path):
    folder = convert("qwen3-embedding", tmp_path / "packed", PACKINGS["4 bit"])
    edit_config(folder, quantization={"group_size": 32, "bits": 4, "mode": "int3"})
    with pytest.raises(UnsupportedModelError, match=r"quantization mode 'int3'; known: affine, nvfp4, mxfp4, mxfp8"):
        Embedder.load(folder)


def test_packed_weights_that_config_does_not_mention(tmp_path):
    folder = convert("qwen3-embedding", tmp_path / "packed", PACKINGS["4 bit"])
    edit_config(folder, quantization=None, quantization_config=None)
    with pytest.raises(CheckpointError, match=r"says nothing of quantization, but .* is quantised"):
        Embedder.load(folder)


def test_packed_weights_of_another_width(tmp_path):
    folder = convert("qwen3-embedding", tmp_path / "packed", PACKINGS["4 bit"])
    edit_config(folder, intermediate_size=96)
    with pytest.raises(CheckpointError, match=r"down_proj is packed to .* does not fit an input of 96 channels"):
        Embedder.load(folder)


@pytest.mark.parametrize("make", [partial(quantize_modules, dtype=mx.float32), dequantize], ids=["kept", "unpacked"])
def test_groups_that_mlx_cannot_multiply(make):
    weights = {"weight": mx.zeros((128, 16), mx.uint32), "scales": mx.ones((128, 8)), "biases": mx.ones((128, 8))}
    weights = {f"layers.0.{name}": weight for name, weight in weights.items()}
    with pytest.raises(CheckpointError, match=r"layers\.0 is packed to \(128, 16\) with scales of \(128, 8\)"):
        make(nn.Sequential(nn.Linear(128, 128, bias=False)), weights, Path("config.json"))


def test_parts_joined_with_other_bits_are_refused_on_a_gpu_and_here(tmp_path):
    folder = tmp_path / "packed"
    shutil.copytree(REFERENCE / "eurobert-mean", folder)
    weights = {key: weight.astype(mx.float32) for key, weight in mx.load(str(folder / "model.safetensors")).items()}
    values = {key: weight for key, weight in weights.items() if "v_proj" in key}
    others = {key: weight for key, weight in weights.items() if "v_proj" not in key}
    packing = {"group_size": 32, "bits": 4, "mode": "affine"}
    packed = packed_by_hand(others, packing) | packed_by_hand(values, packing | {"bits": 8})
    save_weights(folder / "model.safetensors", packed)
    edit_config(folder, quantization=packing)
    with pytest.raises(UnsupportedModelError, match=r"computed together differ in shape or bits"):
        Embedder.load(folder)


def test_products_are_joined_only_where_their_weights_are_alike(tmp_path):
    assert joined_layers(REFERENCE / "qwen3-embedding") == 4

    def predicate(path, module, *_):
        return {"group_size": 32, "bits": 8} if path.endswith("v_proj") else True

    texts = read_texts("qwen3-embedding")
    folder = convert("qwen3-embedding", tmp_path / "packed", PACKINGS["4 bit"], predicate)
    assert joined_layers(folder) == 2  # gate and up
    ours = encode(folder, texts)
    assert_close(ours, rows_as_on_a_gpu(folder, texts)[0], 1e-5)


@pytest.mark.parametrize(
    ("bits", "group_size", "kind", "dtype", "refused"),
    [
        (1, 64, "cuda", "bfloat16", "1 bit.*CUDA"),
        (1, 64, "metal", "bfloat16", None),
        (4, 64, "cuda", "float32", None),
        (4, 128, "cuda", "float32", 'groups of 128.*CUDA.*dtype="bfloat16"'),
        (4, 128, "cuda", "float16", None),
        (4, 128, "metal", "float32", None),
    ],
)
def test_what_cuda_does_not_compute_is_refused(bits, group_size, kind, dtype, refused):
    """MLX 0.32 has no product for 1 bit there and unpacks it to wrong numbers, and none for groups of 128 in float32.

    Seen on an H200; the products of one to nine rows are right.
    """
    layer = nn.Linear(128, 8, bias=False)
    weights = {
        "layer.weight": mx.zeros((8, 128 * bits // 32), mx.uint32),
        "layer.scales": mx.ones((8, 128 // group_size)),
        "layer.biases": mx.zeros((8, 128 // group_size)),
    }
    with pytest.raises(UnsupportedModelError, match=refused) if refused else contextlib.nullcontext():
        check_computed(weights, {"layer": layer}, kind, dtype, Path("model/config.json"))
