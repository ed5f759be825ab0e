"""Relative positions of T5 and DeBERTa: their tables, their memory, and what is refused of their files."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.device.choice import Device
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.effective.facts import dtype as computed_dtype
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures import make_backbone
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.layers.disentangled import deberta_buckets
from akidb_mlx.model.layers.relative import t5_buckets
from akidb_mlx.model.padded_batch import pad_batch
from support.batches import peak_bytes
from support.checkpoints import REFERENCE
from support.device import DEVICE
from support.waiting import PATIENCE_S
from support.weights import save_weights


def test_t5s_buckets_are_the_references():
    """Of transformers 5.24's code, 32 buckets up to 128."""
    distances = [-200, -91, -90, -64, -32, -16, -8, -7, 0, 1, 8, 16, 64, 90, 91]
    expected = [15, 15, 14, 14, 12, 10, 8, 7, 0, 17, 24, 26, 30, 30, 31]
    assert t5_buckets(np.array(distances), 32, 128).tolist() == expected


def test_debertas_buckets_are_the_references():
    """Of transformers 5.24's code, 256 buckets up to 512; distances of the other sign are their negatives."""
    distances = np.array([0, 1, 127, 128, 129, 130, 256, 511, 512, 600])
    expected = [0, 1, 127, 128, 129, 130, 192, 255, 256, 270]
    assert deberta_buckets(distances, 256, 512).tolist() == expected
    assert deberta_buckets(-distances, 256, 512).tolist() == [-bucket for bucket in expected]


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(DEVICE.kind != "cpu", reason="the CPU build's estimate")
@pytest.mark.parametrize("shape", [(32, 400), (1, 1500)], ids=str)
@pytest.mark.parametrize("name", ["heads-64-t5", "heads-64-deberta-v2", "heads-64-jina-v2"])
def test_the_estimate_is_not_too_low(name, shape):
    """MLX's own count of what a batch takes at its peak, at short lengths and where layers go block by block."""
    rows, length = shape
    with Embedder.load(REFERENCE / name, device="cpu", max_seq_length=length) as embedder:
        model = embedder._loaded.engine.model
        taken = DEVICE_THREADS.run(lambda: peak_bytes(model, rows, length)).result(PATIENCE_S)
        assert taken <= model.activation_bytes(rows, length) <= 4 * taken + (32 << 20)


# ── float16 ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("t5-sentence", "float32"), ("mt5-cls", "bfloat16"), ("bert-fp16", "float16"), ("jina-v2-base", "float32")],
)
def test_a_gpu_computes_a_float16_t5_in_float32(name, dtype):
    with Embedder.load(REFERENCE / name) as embedder:
        recipe = embedder._loaded.recipe
    gpu = Device("cuda", "pretended", 4096, Shapes(), cache_limit_mb=512, survives_fork=False)
    pretended = type("Recipe", (), {"checkpoint": recipe.checkpoint, "device": gpu})
    assert computed_dtype(type("Config", (), {"dtype": None}), pretended) == dtype


def test_float16_is_refused_for_t5():
    with pytest.raises(UnsupportedModelError, match='t5 overflows in float16; set dtype="bfloat16" or "float32"'):
        Embedder.load(REFERENCE / "t5-sentence", dtype="float16")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("deberta-mean", {"talking_head": True}, UnsupportedModelError, "talking_head is True"),
        (
            "deberta-mean",
            {"pos_att_type": "c2p|p2p"},
            UnsupportedModelError,
            "pos_att_type is .*p2p.*supported: c2p, p2c",
        ),
        ("deberta-v2-v3", {"norm_rel_ebd": "batch_norm"}, UnsupportedModelError, "norm_rel_ebd is 'batch_norm'"),
        ("deberta-v2-v3", {"attention_head_size": 16}, UnsupportedModelError, "attention_head_size is 16"),
        ("deberta-v2-convolution", {"conv_kernel_size": 4}, CheckpointError, "conv_kernel_size is 4; it must be odd"),
        ("deberta-v2-convolution", {"conv_act": "snake"}, UnsupportedModelError, "conv_act is 'snake'"),
        ("deberta-v2-v3", {"num_attention_heads": 5}, CheckpointError, "5 attention heads cannot share 32 channels"),
        ("t5-sentence", {"feed_forward_proj": "doubled-gelu"}, CheckpointError, "feed_forward_proj is 'doubled-gelu'"),
        ("t5-sentence", {"dense_act_fn": "snake"}, UnsupportedModelError, "dense_act_fn is 'snake'"),
        ("albert-mean", {"num_hidden_groups": 9}, CheckpointError, "5 layers cannot be of 9 groups"),
    ],
)
def test_what_is_not_computed_is_refused(name, changes, error, message):
    config = read_checkpoint(REFERENCE / name).config
    with pytest.raises(error, match=message):
        make_backbone({**config, **changes})


def test_two_tables_of_words_that_differ(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(REFERENCE / "t5-instructor", folder)
    weights = mx.load(str(folder / "model.safetensors"))
    save_weights(folder / "model.safetensors", weights | {"shared.weight": weights["shared.weight"] + 1})
    with pytest.raises(CheckpointError, match="encoder.embed_tokens and shared differ"):
        Embedder.load(folder)


def test_a_convolution_does_not_see_padding():
    """Rows of a batch that end next to others' tokens."""
    config = json.loads((REFERENCE / "deberta-v2-convolution" / "config.json").read_text())

    def states():
        with mx.stream(mx.cpu):
            mx.random.seed(3)
            backbone = make_backbone(read_checkpoint(REFERENCE / "deberta-v2-convolution").config)
            short, long = (Encoding(np.arange(5, 5 + count, dtype=np.int32)) for count in (6, 11))
            alone = backbone(DeviceBatch.of(pad_batch([short], 6)))
            together = backbone(DeviceBatch.of(pad_batch([short, long], 11)))
            return np.array(alone[0]), np.array(together[0, :6])

    alone, together = DEVICE_THREADS.run(states).result(PATIENCE_S)
    assert config["conv_kernel_size"] == 3
    assert np.abs(alone - together).max() <= 2e-6
