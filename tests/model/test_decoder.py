"""Decoders over mlx-lm's classes: nothing of config.json is ignored, nothing of the process is changed."""

import json
import shutil
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import AkiDBMLXError, CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures import make_backbone
from akidb_mlx.model.architectures.decoder_table import DECODERS, account_for, layer_kinds
from akidb_mlx.model.architectures.mlx_lm import has_model, import_model
from akidb_mlx.model.layers.rope import make_rope, rope_parameters
from support.batches import batch_of
from support.checkpoints import REFERENCE
from support.weights import save_weights

# Decoders whose class in transformers has another name.
OWN_CODE = ("bidirectional_pplx_qwen3", "llama_bidirec", "ministral3_bidirec")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": 100,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}


def config_of(name):
    return json.loads((REFERENCE / name / "config.json").read_text(encoding="utf-8"))


def run(code):
    """Standard output of a fresh interpreter."""
    ending = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)"  # how a process ends is not the matter here
    result = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return result.stdout.split()


# ── what config.json says ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model_type", [name for name in DECODERS if name not in OWN_CODE])
def test_every_field_of_transformers_own_config_is_accounted_for(model_type):
    """A field that a newer transformers adds fails here, until somebody says what it does."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    family = DECODERS[model_type]
    config = {**CONFIG_MAPPING[model_type]().to_dict(), "model_type": model_type}
    account_for(family, config, import_model(family.module).ModelArgs.__dataclass_fields__)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_chunk_size": 64}, "'attention_chunk_size' .64. is not known for llama and might change vectors"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'layer_types' .* is not known for llama"),
        ({"sliding_window": 8}, "'sliding_window' .8. is not known for llama"),
        ({"use_sliding_window": True}, "use_sliding_window is True; for llama only False"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 1e4}},
            "rope_scaling beside",
        ),
        ({"rope_theta": 0}, "no positive frequencies"),
        ({"rope_theta": -5.0}, "no positive frequencies"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which the reference does not obey for llama"),
        ({"rope_traditional": True}, "rope_traditional is True; for llama only False"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "rope_type 'longrope' lacks a setting"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 3}},
            "long_factor must be 4 positive numbers",
        ),
        ({"rope_scaling": {"type": "dynamic"}}, "rope_type 'dynamic' lacks a setting"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0, "alpha": 2.0}}, "'alpha' among the rotary settings"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_type 'yarn' lacks a setting"),
        (
            {"model_type": "phi3", "partial_rotary_factor": 1.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type is 'linear'; for phi3 only 'default', 'longrope'",
        ),
        (
            {"model_type": "phi3", "partial_rotary_factor": 1.0, "rope_scaling": {"type": "su"}},
            "type 'su' lack original_max_position_embeddings",
        ),
        ({"rope_scaling": {"type": "ntk", "factor": 4.0}}, "rope_type is 'ntk'; for llama only"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [1, 2]}}, "'mrope_section' among the rotary"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type 'llama3' lacks a setting"),
        ({"rope_theta": None}, "neither rope_parameters nor rope_theta"),
        ({"hidden_act": "xielu"}, "hidden_act is 'xielu'; supported: gelu"),
        ({"hidden_act": None}, "hidden_act must be str, not None"),
        ({"rms_norm_eps": None}, "lacks a setting or has a wrong one: .*rms_norm_eps"),
        ({"is_causal": "no"}, "is_causal must be bool, not 'no'"),
        ({"model_type": "qwen2", "head_dim": 16}, "head_dim is 16; for qwen2 only None, 8"),
        ({"model_type": "qwen2", "mlp_bias": True}, "mlp_bias is True; for qwen2 only False"),
        (
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention is True, .* not read for llama; .* is_causal",
        ),
        (
            {"model_type": "gemma", "use_bidirectional_attention": True, "is_causal": False},
            "use_bidirectional_attention is True; for gemma only None, False",
        ),
        ({"model_type": "llama_bidirec", "is_causal": True}, "is_causal is True; for llama_bidirec only False"),
        (
            {"model_type": "llama_bidirec", "use_bidirectional_attention": False},
            "use_bidirectional_attention is False; for llama_bidirec only True",
        ),
        ({"model_type": "ministral3"}, "rope_parameters must be an object, not None"),
        ({"model_type": "ministral3", "rope_parameters": {"rope_theta": 1e4}}, "lacks 'llama_4_scaling_beta'"),
        (
            {"model_type": "ministral3", "rope_parameters": {"rope_theta": 1e4, "llama_4_scaling_beta": 0.1}},
            "lacks 'original_max_position_embeddings'",
        ),
        (
            {"rope_scaling": {"rope_type": "default", "llama_4_scaling_beta": 0.1}},
            "'llama_4_scaling_beta' among the rotary",
        ),
        (
            {"model_type": "phi3", "partial_rotary_factor": 1.0, "hidden_act": "gelu"},
            "hidden_act is 'gelu'; for phi3 only 'silu'",
        ),
        ({"model_type": "granite"}, "lacks a setting or has a wrong one: .*logits_scaling"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 0},
            "sliding layers and no sliding_w",
        ),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "1 layer_types for 2 layers"),
        ({"model_type": "qwen2", "layer_types": ["linear_attention"] * 2}, "layer_types 'linear_attention' is not"),
        (
            {"model_type": "gemma2", "hidden_act": None, "use_bidirectional_attention": True},
            "use_bidirectional_attention is True; for gemma2",
        ),
        (
            {"model_type": "gemma", "use_bidirectional_attention": True},
            "use_bidirectional_attention is True; for gemma ",
        ),
        (
            {"model_type": "gemma2", "hidden_act": None, "hidden_activation": "gelu_pytorch_tanh"},
            "lacks 'query_pre_attn_scalar'",
        ),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 30.0}, "attn_logit_softcapping is 30.0"),
        (
            {"model_type": "exaone4", "head_dim": 8, "sliding_window": 8, "sliding_window_pattern": "LLLG"},
            "lacks layer_types, and no sliding_window_pattern says them in a number",
        ),
        ({"model_type": "exaone4", "head_dim": 8, "sliding_window": None}, "lacks layer_types"),
        (
            {"model_type": "internlm3", "attention_bias": True, "mlp_bias": False},
            "mlp_bias is False; for internlm3 only True",
        ),
        ({"model_type": "olmo", "clip_qkv": 8.0}, "clip_qkv is 8.0; for olmo only None"),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm is True; for phi only False"),
        ({"model_type": "apertus", "hidden_act": "xielu", "qk_norm": False}, "qk_norm is False; for apertus only True"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention is True; for gpt2 only False"),
        ({"model_type": "gptj", "is_causal": False}, "is_causal is False; for gptj only True"),
    ],
)
def test_what_neither_mlx_lm_nor_we_compute_is_refused(changes, message):
    with pytest.raises(AkiDBMLXError, match=message):
        make_backbone(LLAMA | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["full_attention"] * 2},
        {"use_sliding_window": False, "sliding_window": None},
        {"attention_bias": True, "mlp_bias": True},
        {"unsloth_version": "2026.1", "_name_or_path": "x", "pretraining_tp": 1},
        {"some_new_field": None},
        {"use_bidirectional_attention": False, "num_labels": 7},
        {"use_bidirectional_attention": True, "is_causal": False},
        {"hidden_act": "gelu"},
    ],
)
def test_what_changes_nothing_or_is_computed_is_taken(changes):
    assert make_backbone(LLAMA | changes).width == 32


def test_gemma_3_needs_to_say_which_layers_are_global():
    config = config_of("gemma3-transformers-4")
    del config["sliding_window_pattern"], config["_sliding_window_pattern"]
    with pytest.raises(CheckpointError, match="neither layer_types nor sliding_window_pattern"):
        make_backbone(config)


def test_windows_that_are_stated_but_off():
    """Qwen's published files state one."""
    config = {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 0}
    assert set(layer_kinds(DECODERS["qwen2"], config, 3)) == {"full_attention"}


@pytest.mark.parametrize(
    "name", ["qwen3-sliding-window", "mistral-sliding-window", "gemma3-layer-types", "gemma2-last-token"]
)
def test_a_window_is_exact(name):
    """A token sees `sliding_window` tokens, itself among them: one further away changes nothing through one layer."""
    config = config_of(name) | {"num_hidden_layers": 1, "sliding_window": 4}
    config |= {"layer_types": ["sliding_attention"]} if "layer_types" in config else {}
    backbone = make_backbone(config)
    ids = np.arange(3, 15)[None]

    def last(change):
        changed = ids.copy()
        changed[0, change] = 40
        return np.array(backbone(batch_of(changed))[0, -1])

    unchanged = np.array(backbone(batch_of(ids))[0, -1])
    assert np.abs(last(-4) - unchanged).max() > 1e-4
    assert np.abs(last(-5) - unchanged).max() == 0


def test_an_explicit_mask_array_equals_mlx_own_causal_mask():
    backbone = make_backbone(LLAMA)
    batch = batch_of(np.arange(24).reshape(2, 12))
    fused = backbone(batch)
    backbone._mask_array = True
    assert mx.abs(fused - backbone(batch)).max() < 1e-5


def test_rotary_positions_are_exact_at_32768():
    """MLX's own `base` is off by 2e-3 at 8192 positions."""
    rope = make_rope(64, rope_parameters({"rope_theta": 1e6}))
    x = np.random.default_rng(0).standard_normal((32768, 64)).astype(np.float32)
    exponents = np.arange(0, 64, 2, dtype=np.float32) / np.float32(64)
    angles = np.arange(32768, dtype=np.float32)[:, None] * (1 / np.power(np.float32(1e6), exponents))
    left, right = x[:, :32], x[:, 32:]
    sine, cosine = np.sin(angles), np.cos(angles)
    expected = np.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=1)
    assert np.abs(np.array(rope(mx.array(x)[None, None]))[0, 0] - expected).max() < 2e-6


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_left_over_weight_is_refused(tmp_path):
    shutil.copytree(REFERENCE / "llama-linear", tmp_path / "model")
    file = str(tmp_path / "model" / "model.safetensors")
    save_weights(file, mx.load(file) | {"layers.0.self_attn.q_norm.weight": mx.ones(8)})
    with pytest.raises(UnsupportedModelError, match=r"does not use: model\.layers\.0\.self_attn\.q_norm\.weight"):
        Embedder.load(tmp_path / "model")


def test_float16_is_refused_for_gemma_3(tmp_path):
    with pytest.raises(
        UnsupportedModelError, match='gemma3_text overflows in float16; set dtype="bfloat16" or "float32"'
    ):
        Embedder.load(REFERENCE / "embeddinggemma", dtype="float16")
    with Embedder.load(REFERENCE / "embeddinggemma", dtype="bfloat16") as embedder:
        assert np.isfinite(embedder.encode(["a"])).all()


# ── the process ──────────────────────────────────────────────────────────────────────────────────────

LOAD = f"""
import resource, sys
before = resource.getrlimit(resource.RLIMIT_NOFILE)
import akidb_mlx
with akidb_mlx.Embedder.load({str(REFERENCE / "qwen3-embedding")!r}) as embedder:
    embedder.encode(["a"])
"""


def test_loading_a_decoder_leaves_the_limit_of_open_files():
    """mlx-lm's package sets it to 2048 (and the hard one to 4096, for good)."""
    assert run(LOAD + "print(before == resource.getrlimit(resource.RLIMIT_NOFILE))") == ["True"]


def test_loading_a_decoder_imports_neither_transformers_nor_torch():
    code = "print(*[name in sys.modules for name in ('transformers', 'torch', 'mlx_lm')])"
    assert run(LOAD + code) == ["False"] * 3


def test_a_users_own_mlx_lm_is_another_copy():
    code = """
import mlx_lm, mlx_lm.models.qwen3
from akidb_mlx.model.architectures.mlx_lm import import_model
print(mlx_lm.models.qwen3 is not import_model("qwen3"), callable(mlx_lm.load))
"""
    assert run(LOAD + code) == ["True", "True"]


def test_encoders_import_nothing_of_mlx_lm():
    folder = REFERENCE / "bert-cls"
    code = f"""
import sys, akidb_mlx
with akidb_mlx.Embedder.load({str(folder)!r}) as embedder:
    embedder.encode(["a"])
print(*[name for name in sys.modules if "mlx_lm" in name and not name.startswith("akidb_mlx.")])
"""
    assert run(code) == []


def test_every_family_names_a_model_of_mlx_lm():
    assert all(has_model(family.module) for family in DECODERS.values())
    assert not has_model("bert")
    assert not has_model("../models/qwen3")
