"""Decoders that are published as embedders: what their own code does, packed weights, whole numbers, long texts."""

import json
import shutil
import sys

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.corpus.quantization import calibrate, quantize
from akidb_mlx.device.choice import Device
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.effective.recipe import read_recipe
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.loading import load_model
from akidb_mlx.model.padded_batch import pad_batch
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close
from support.weights import save_weights

GPU = Device("cuda", "pretended", 4096, Shapes(), cache_limit_mb=512, survives_fork=False)
FOUR_BIT = {"group_size": 32, "bits": 4, "mode": "affine"}
WIDE = ["heads-128-voyage", "heads-128-pplx", "heads-64-gte-qwen2", "heads-64-llama-bidirec", "heads-128-ministral3"]
PACKED = [*WIDE, "voyage-4-nano", "stella-1.5b", "gritlm", "ministral3", "heads-64-mistral", "gemma2-both-ways"]
DEEP = ["heads-128-ministral3", "ministral3-bidirec", "heads-64-mistral", "gemma2-both-ways", "gemma3-both-ways"]


def edit_json(file, **changes):
    """Fields anew; those that are ... go."""
    content = json.loads(file.read_text(encoding="utf-8"))
    changed = {key: value for key, value in {**content, **changes}.items() if value is not ...}
    file.write_text(json.dumps(changed), encoding="utf-8")


def edit_weights(folder, edit):
    file = str(folder / "model.safetensors")
    weights = edit(mx.load(file))
    mx.eval(weights)
    save_weights(file, weights)


def copy_of(name, tmp_path):
    return shutil.copytree(REFERENCE / name, tmp_path / "model")


def rows_of(folder, texts, **settings):
    with Embedder.load(folder, dtype="float32", **settings) as embedder:
        return embedder.encode(texts)


# ── packed weights equal the floats that they stand for ──────────────────────────────────────────────


def packed_and_floats(name, tmp_path, bits_of=lambda key: 4):
    """Two copies: every matrix packed, also the head in the main file; and what it stands for."""
    packed, floats = (shutil.copytree(REFERENCE / name, tmp_path / kind) for kind in ("packed", "floats"))
    weights = {key: weight.astype(mx.float32) for key, weight in mx.load(str(packed / "model.safetensors")).items()}
    said, plain = dict(FOUR_BIT), dict(weights)
    for key, weight in list(weights.items()):
        if weight.ndim == 2 and weight.shape[1] % 32 == 0:
            path, packing = key.removesuffix(".weight"), FOUR_BIT | {"bits": bits_of(key)}
            weights[key], weights[f"{path}.scales"], weights[f"{path}.biases"] = mx.quantize(weight, **packing)
            parts = [weights[f"{path}.{part}"] for part in ("weight", "scales", "biases")]
            plain[key] = mx.dequantize(*parts, **packing, dtype=mx.float32)
            own = path if path.startswith(("model.", "linear")) else f"model.{path}"
            said |= {own: packing} if packing != FOUR_BIT else {}
    for folder, content in ((packed, weights), (floats, plain)):
        mx.eval(content)
        save_weights(folder / "model.safetensors", content)
    edit_json(packed / "config.json", quantization=said)
    return packed, floats


def rows_with_packed_layers(folder, texts):
    """As a GPU computes them."""
    with Embedder.load(folder) as embedder:
        ids = embedder._loaded.tokenizer.tokenize(texts).token_ids
    recipe = read_recipe(EmbedderConfig(model=str(folder), device="cpu"))
    model = load_model(recipe.checkpoint, recipe.head, GPU, "float32")
    rows = np.array(model(pad_batch(list(map(Encoding, ids)), max(map(len, ids)))))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("name", PACKED)
def test_packed_in_4_bit(tmp_path, name):
    texts = read_case(name)[1]["texts"]
    packed, floats = packed_and_floats(name, tmp_path)
    ours = rows_of(packed, texts)
    assert_close(ours, rows_of(floats, texts), 1e-5)
    unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    assert_close(unit, rows_with_packed_layers(packed, texts), 1e-5)


def test_layers_that_cannot_be_joined_grow_their_queries_too(tmp_path):
    """A mixed recipe packs values in more bits: then queries, keys and values stay three products."""
    name = "heads-128-ministral3"
    texts = read_case(name)[1]["texts"]
    packed, floats = packed_and_floats(name, tmp_path, lambda key: 8 if "v_proj" in key else 4)
    assert_close(rows_of(packed, texts), rows_of(floats, texts), 1e-5)


# ── Ministral 3 ──────────────────────────────────────────────────────────────────────────────────────


def test_rotary_settings_that_config_json_leaves_to_the_class(tmp_path):
    folder = copy_of("ministral3", tmp_path)
    said = json.loads((folder / "config.json").read_text())["rope_parameters"]
    edit_json(folder / "config.json", rope_parameters=...)
    own = read_checkpoint(folder).config["rope_parameters"]
    assert own.keys() == said.keys()
    assert (own["factor"], own["original_max_position_embeddings"], own["rope_theta"]) == (16.0, 16384, 1e6)
    assert own["max_position_embeddings"] == 64
    edit_json(folder / "config.json", rope_theta=10000.0)  # transformers would take yarn all the same
    with pytest.raises(CheckpointError, match="rope_parameters must be an object, not None"):
        Embedder.load(folder)


def test_a_first_length_outside_the_rotary_settings_counts_for_queries_too(tmp_path):
    """As the reference, which puts it among them."""
    folder, facts, reference = read_case("ministral3")
    moved = copy_of("ministral3", tmp_path)
    said = json.loads((folder / "config.json").read_text())["rope_parameters"]
    edit_json(
        moved / "config.json",
        rope_parameters=said | {"original_max_position_embeddings": 1000},
        original_max_position_embeddings=said["original_max_position_embeddings"],
    )
    assert_close(rows_of(moved, facts["texts"]), reference["embeddings"], 1e-5)


def test_nvidias_embedders_say_their_pooling_in_config_json(tmp_path):
    folder = copy_of("ministral3", tmp_path)
    for file in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / file).unlink()
    checkpoint = read_checkpoint(folder, "nvidia/Nemotron-3-Embed-1B-BF16")
    assert (checkpoint.pooling, checkpoint.sources["pooling"]) == (("mean",), "config.json")
    assert checkpoint.prompts == {"query": "query: ", "document": "passage: "}


@pytest.mark.skipif(sys.platform != "linux", reason="blocks are the CPU build's")
@pytest.mark.parametrize("name", DEEP)
def test_long_texts_in_blocks(monkeypatch, name):
    """On the CPU a long text is computed block by block: positions, windows and masks go on from block to block."""
    monkeypatch.setattr(cpu_kernels, "LONG", 3)
    monkeypatch.setattr(cpu_kernels, "BLOCK_BYTES", 700)
    folder, facts, reference = read_case(name)
    assert_close(rows_of(folder, facts["texts"], device="cpu"), reference["embeddings"], 1e-5)


# ── the checkpoints' own code ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pooling", ["cls", "last_token", "mean_sqrt_len", "weighted_mean"])
def test_voyages_layer_before_pooling_is_the_same_after_it(tmp_path, pooling):
    folder, facts, _ = read_case("voyage-4-nano")
    weight = np.array(mx.load(str(folder / "model.safetensors"))["linear.weight"].astype(mx.float32))
    bare = copy_of("voyage-4-nano", tmp_path)
    edit_weights(bare, lambda weights: {key: part for key, part in weights.items() if key != "linear.weight"})
    alone = [text for text in facts["texts"] if text]
    expected = rows_of(bare, alone, pooling=pooling, normalize=False) @ weight.T
    assert_close(rows_of(folder, alone, pooling=pooling, normalize=False), expected, 1e-5)


def test_voyages_layer_and_the_greatest_of_tokens():
    with pytest.raises(UnsupportedModelError, match=r'linear layer before pooling .linear in the main file.*"max"'):
        Embedder.load(REFERENCE / "voyage-4-nano", pooling="max")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bidirectional_attention": ...}, "own code .*modeling_qwen3_bidirectional"),
        ({"use_bidirectional_attention": False}, "own code .*modeling_qwen3_bidirectional"),
        ({"auto_map": {"AutoModel": "modeling_qwen3_other.Qwen3BidirectionalModel"}}, "own code .modeling_qwen3_other"),
        ({"auto_map": ...}, "use_bidirectional_attention is True, which the reference does not read"),
        ({"model_type": "qwen2"}, "own code .*modeling_qwen3_bidirectional"),
    ],
)
def test_code_is_known_by_all_of_its_signs(tmp_path, changes, message):
    folder = copy_of("heads-128-voyage", tmp_path)
    edit_json(folder / "config.json", **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        Embedder.load(folder)


def test_where_a_field_of_known_code_comes_from():
    checkpoint = read_checkpoint(REFERENCE / "voyage-4-nano")
    assert checkpoint.config["is_causal"] is False
    assert (
        checkpoint.sources["is_causal"] == "config.json: auto_map: modeling_qwen3_bidirectional.Qwen3BidirectionalModel"
    )
    assert checkpoint.sources["dense"] == "linear in the main file"
    assert checkpoint.matryoshka is None
    named = read_checkpoint(REFERENCE / "voyage-4-nano", "voyageai/voyage-4-nano")
    assert named.matryoshka is None  # 48 wide: none of the family's
    assert named.suggestions == ()


def test_what_config_json_says_of_the_direction_stays(tmp_path):
    folder = copy_of("stella-1.5b", tmp_path)
    edit_json(folder / "config.json", is_causal=True)
    assert read_checkpoint(folder).config["is_causal"] is True


def test_an_end_token_only_where_the_tokenizers_own_code_adds_it(tmp_path):
    folder = copy_of("heads-64-gte-qwen2", tmp_path)
    assert read_checkpoint(folder).tokenizer_rules["append"] == "<|endoftext|>"
    edit_json(folder / "tokenizer_config.json", add_eos_token=False)
    assert "append" not in read_checkpoint(folder).tokenizer_rules


def test_a_tokenizers_own_code_alone_is_refused(tmp_path):
    """gte's model under another tokenizer of one's own is nobody's that is known."""
    folder = copy_of("stella-1.5b", tmp_path)
    named = {"AutoTokenizer": ["tokenization_other.Qwen2Tokenizer", None]}
    edit_json(folder / "tokenizer_config.json", auto_map=named)
    with pytest.raises(UnsupportedModelError, match=r"tokenization_other.Qwen2Tokenizer\), which is never run"):
        Embedder.load(folder)


def test_gritlm_pools_the_text_alone_by_its_name(tmp_path):
    checkpoint = read_checkpoint(REFERENCE / "gritlm")
    assert (checkpoint.pooling, checkpoint.include_prompt) == (("mean",), False)
    assert checkpoint.prompts["document"] == "<|embed|>\n"
    assert checkpoint.sources["is_causal"] == "family table: GritLM, README.md: base_model"
    folder = copy_of("gritlm", tmp_path)
    (folder / "README.md").unlink()
    with pytest.raises(UnsupportedModelError, match="does not say how its token vectors become one"):
        Embedder.load(folder)
    with pytest.raises(UnsupportedModelError, match=r"own code .modeling_gritlm7b.*is_causal"):
        Embedder.load(folder, pooling="mean", normalize=True)


# ── whole numbers ────────────────────────────────────────────────────────────────────────────────────


def test_pplx_gives_whole_numbers_and_keeps_their_signs(tmp_path):
    folder, facts, _ = read_case("pplx-embed")
    rows = rows_of(folder, facts["texts"])
    assert np.array_equal(rows, np.round(rows))
    assert 100 < np.abs(rows).max() <= 127
    plain = copy_of("pplx-embed", tmp_path)
    modules = json.loads((plain / "modules.json").read_text())
    (plain / "modules.json").write_text(json.dumps(modules[:2]))
    numbers = rows_of(plain, facts["texts"])
    assert np.abs(rows - 127 * np.tanh(numbers)).max() <= 0.5 + 1e-3
    assert np.array_equal(np.signbit(rows), np.signbit(numbers))
    with Embedder.load(folder) as whole, Embedder.load(plain) as other:
        assert whole.info()["output"] == "int8_tanh"
        assert other.info()["output"] is None
        assert whole.fingerprint != other.fingerprint


def test_whole_numbers_as_bytes_and_bits():
    """Without a scale; a bit is the sign before rounding, as the checkpoint's own module has it (x ≥ 0)."""
    before = np.array([[0.001, -0.001, 3.0, -3.0, 0.4, -0.4, 0.0, 0.02]], np.float32)
    rows = np.round(127 * np.tanh(before))
    assert rows[0, 0] == rows[0, 1] == 0
    calibration = calibrate("int8", 99.0, whole_numbers=True)
    assert quantize(rows, "int8", calibration).tolist() == rows.astype(int).tolist()
    bits = np.unpackbits(quantize(rows, "binary", calibrate("binary", 99.0, whole_numbers=True)))
    assert bits.tolist() == (before[0] >= 0).astype(int).tolist()
    assert quantize(rows, "float32", calibrate("float32", 99.0, whole_numbers=True)) is not None


def test_a_conversion_without_sidecars_gives_them_too(tmp_path):
    _, facts, reference = read_case("pplx-embed")
    stripped = copy_of("pplx-embed", tmp_path)
    for file in ("modules.json", "sentence_bert_config.json"):
        (stripped / file).unlink()
    (stripped / "README.md").write_text("---\nbase_model: perplexity-ai/pplx-embed-v1-0.6b\n---\n")
    assert_close(rows_of(stripped, facts["texts"], max_seq_length=48), reference["embeddings"], 1e-5)


def test_a_module_after_the_one_that_rounds_is_refused(tmp_path):
    folder = copy_of("pplx-embed", tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    row = {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
    (folder / "modules.json").write_text(json.dumps([*modules, row]))
    with pytest.raises(
        UnsupportedModelError, match=r"Normalize follows st_quantize.FlexibleQuantizer, which must come"
    ):
        read_checkpoint(folder)
