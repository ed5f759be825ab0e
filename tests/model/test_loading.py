"""Weights → a live model: nothing missing, nothing left over, nothing of another shape."""

import gc
import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.errors import AkiDBMLXError, CheckpointError, ConfigError, InputError, UnsupportedModelError
from akidb_mlx.model import loading, weights
from akidb_mlx.pipeline import loaded_model
from support.checkpoints import REFERENCE
from support.comparison import assert_close

pytestmark = pytest.mark.checkpoint("bert-dense")  # BERT, CLS pooling, Dense, Normalize


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    engines = len(DEVICE_THREADS._engines)
    yield
    assert len(DEVICE_THREADS._engines) == engines
    assert not [key for key, future in loaded_model._loaded.items() if not future.done()]


def refuse(folder, error, *says, **fields):
    """Loading fails with one line that names these things."""
    with pytest.raises(error) as caught:
        Embedder.load(folder, **fields).close()
    message = str(caught.value)
    assert "\n" not in message
    for text in says:
        assert re.search(text, message), (text, message)


def change(file, **fields):
    """Set fields of a JSON file; `...` removes one."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content |= fields
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def edit_weights(file, edit):
    weights = load_file(file)
    edit(weights)
    save_file(weights, file)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
@pytest.mark.parametrize("size", [4, 8, 100, -1])
def test_a_file_cut_short(folder, name, size):
    file = folder / name
    whole = file.read_bytes()
    file.write_bytes(whole[:size])
    refuse(folder, CheckpointError, re.escape(str(file)), "no whole safetensors file", "download it again")


def test_a_file_with_too_much_in_it(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0" * 8)
    refuse(folder, CheckpointError, "model.safetensors", "no whole safetensors file")


def write_header(file, header):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(content).to_bytes(8, "little") + content)


@pytest.mark.parametrize(
    "header",
    [
        b"{]",
        b"\xff\xfe",
        b"x" * 60,
        [],
        "text",
        5,
        None,
        {"a": 5},
        {"a": []},
        {"a": {}},
        {"a": {"dtype": "F32", "shape": [0], "data_offsets": "00"}},
        {"a": {"dtype": "F32", "shape": [0], "data_offsets": [0]}},
        {"a": {"shape": [0], "data_offsets": [0, 0]}},
        {"a": {"dtype": 5, "shape": [0], "data_offsets": [0, 0]}},
        {"a": {"dtype": ["F32"], "shape": [0], "data_offsets": [0, 0]}},
        {},
        {"__metadata__": {"format": "pt"}},
    ],
)
def test_a_header_of_another_kind(folder, header):
    write_header(folder / "model.safetensors", header)
    refuse(folder, CheckpointError, "model.safetensors")


def test_a_header_names_dtypes_and_shapes(folder):
    header = read_header(folder / "model.safetensors")
    assert header["embeddings.word_embeddings.weight"]["dtype"] == "F32"
    assert header["embeddings.word_embeddings.weight"]["shape"] == [200, 16]
    assert "__metadata__" not in header


@pytest.mark.checkpoint("bert-sharded")
def test_a_cut_shard_is_named(folder):
    shard = sorted(folder.glob("model-*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-4])
    refuse(folder, CheckpointError, shard.name, "download it again")


def test_weights_that_are_no_floats(folder):
    save_file({"a": np.zeros(3, np.int8)}, folder / "model.safetensors")
    refuse(folder, CheckpointError, "model.safetensors", "no float weights", "I8")


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────

WEIGHT = "encoder.layer.1.attention.output.dense.weight"


def test_a_missing_weight(folder):
    edit_weights(folder / "model.safetensors", lambda weights: weights.pop(WEIGHT))
    refuse(folder, CheckpointError, "model.safetensors", r"layers\.1\.\S*out\S*\.weight", "incomplete")


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_missing_part_of_a_fused_weight(folder, part):
    name = f"encoder.layer.0.attention.self.{part}.bias"
    edit_weights(folder / "model.safetensors", lambda weights: weights.pop(name))
    refuse(folder, CheckpointError, "model.safetensors", r"layers\.0\.")


def test_a_weight_left_over(folder):
    edit_weights(folder / "model.safetensors", lambda weights: weights.update(rotary=np.ones(3, np.float32)))
    refuse(folder, UnsupportedModelError, "model.safetensors", "rotary")


def test_more_layers_in_the_file_than_in_the_config(folder):
    change(folder / "config.json", num_hidden_layers=1)
    refuse(folder, UnsupportedModelError, r"layers\.1\.", "might be wrong")


def test_fewer_layers_in_the_file_than_in_the_config(folder):
    change(folder / "config.json", num_hidden_layers=3)
    refuse(folder, CheckpointError, r"layers\.2\.")


def test_a_weight_of_another_shape(folder):
    edit_weights(folder / "model.safetensors", lambda w: w.update({WEIGHT: np.ones((16, 15), np.float32)}))
    refuse(folder, CheckpointError, r"layers\.1\.\S*out\S*\.weight has shape \(16, 15\).*\(16, 16\)")


def test_another_vocabulary_size(folder):
    change(folder / "config.json", vocab_size=300)
    refuse(folder, CheckpointError, r"word\.weight has shape \(200, 16\).*\(300, 16\)")


def test_the_head_of_another_task_does_not_count(folder):
    with Embedder.load(folder) as embedder:
        expected = embedder.encode(["a"])
    more = {"pooler.dense.weight": np.ones((16, 16), np.float32), "cls.predictions.bias": np.ones(3, np.float32)}
    more["embeddings.position_ids"] = np.arange(64)[None]
    edit_weights(folder / "model.safetensors", lambda weights: weights.update(more))
    with Embedder.load(folder, max_batch_tokens=4095) as embedder:
        assert_close(embedder.encode(["a"]), expected)


def test_a_missing_weight_of_a_dense_layer(folder):
    edit_weights(folder / "2_Dense" / "model.safetensors", lambda weights: weights.pop("linear.bias"))
    refuse(folder, CheckpointError, "2_Dense/model.safetensors", "linear.bias")


def test_a_dense_layer_of_another_width(folder):
    change(folder / "2_Dense" / "config.json", in_features=8)
    refuse(folder, CheckpointError, r"shape|takes 8")


def test_a_dense_layer_that_does_not_follow_on_pooling(folder):
    change(folder / "2_Dense" / "config.json", in_features=8)
    edit_weights(
        folder / "2_Dense" / "model.safetensors",
        lambda weights: weights.update({"linear.weight": weights["linear.weight"][:, :8].copy()}),
    )
    refuse(folder, CheckpointError, "Dense layer takes 8 numbers and gets 16")


# ── config.json ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model_type", ["bort", "BERT", "", "longformer"])
def test_an_unknown_architecture(folder, model_type):
    change(folder / "config.json", model_type=model_type)
    refuse(folder, UnsupportedModelError, f"model_type {model_type!r} is not supported; supported: .*bert")


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
    ],
)
@pytest.mark.parametrize("value", [None, "16", 1.5, True, [16]])
def test_a_field_of_another_type(folder, key, value):
    if key == "layer_norm_eps" and value == 1.5:
        value = False
    change(folder / "config.json", **{key: value})
    refuse(folder, AkiDBMLXError, "config.json", key, "must be|max_pos")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "rotary"),
        ("is_causal", True),
        ("is_decoder", True),
        ("hidden_act", "xielu"),
        ("hidden_act", None),
        ("hidden_act", ["gelu"]),
        ("per_layer_config", {"0": {"hidden_act": "relu"}}),
    ],
)
def test_a_field_that_would_change_vectors(folder, key, value):
    change(folder / "config.json", **{key: value})
    refuse(folder, AkiDBMLXError, "config.json", key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 3),
        ("num_attention_heads", 0),
        ("num_attention_heads", -2),
        ("num_hidden_layers", -1),
        ("hidden_size", 0),
        ("hidden_size", -1),
        ("intermediate_size", 0),
        ("intermediate_size", -1),
        ("vocab_size", -1),
        ("type_vocab_size", -1),
        ("max_position_embeddings", -1),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", -1),
    ],
)
def test_a_number_that_cannot_be(folder, key, value):
    change(folder / "config.json", **{key: value})
    refuse(folder, AkiDBMLXError, "config.json|safetensors")


def test_a_tokenizer_with_more_tokens_than_the_model(folder):
    """MLX reads beyond a table's end without a word."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    token = {"id": 200, "content": "zebra", "special": False}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append(token)
    file.write_text(json.dumps(content))
    with Embedder.load(folder) as embedder:
        assert embedder.encode(["a horse"]).shape == (1, 12)
        with pytest.raises(InputError, match=r"text 1 has the token 'zebra' \(200\), but the model knows only 200"):
            embedder.encode(["a horse", "a zebra"])


# ── what a failed load leaves behind ─────────────────────────────────────────────────────────────────


def test_a_bad_tokenizer_leaves_no_model_behind(folder):
    (folder / "tokenizer.json").write_text("{}")
    refuse(folder, CheckpointError, "tokenizer.json")


def test_a_bad_length_leaves_no_model_behind(folder):
    refuse(folder, ConfigError, "max_seq_length is 2", max_seq_length=2)


def test_a_bad_dimension_leaves_no_model_behind(folder):
    refuse(folder, ConfigError, "truncate_dim is 13; .* 1 to 12", truncate_dim=13)


def test_a_mended_checkpoint_loads(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    refuse(folder, CheckpointError, "model.safetensors")
    file.write_bytes(whole)
    with Embedder.load(folder) as embedder:
        assert embedder.encode(["a"]).shape == (1, 12)


def test_memory_is_given_back(tmp_path):
    def active():
        gc.collect()
        return DEVICE_THREADS.run(_active_memory).result()

    folder = tmp_path / "model"
    shutil.copytree(REFERENCE / "bert-mean", folder)
    before = active()
    for _ in range(3):
        with Embedder.load(folder) as embedder:
            embedder.encode(["a b c"])
            assert active() > before
    assert active() <= before


def _active_memory():
    import mlx.core as mx

    return mx.get_active_memory()


# ── dtype ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("dtype", "cosine"), [("float32", 1 - 1e-6), ("float16", 1 - 1e-4), ("bfloat16", 0.995)])
def test_a_dtype_on_request(dtype, cosine):
    facts = json.loads((REFERENCE / "bert-mean" / "reference.json").read_text(encoding="utf-8"))
    expected = np.load(REFERENCE / "bert-mean" / "reference.npz")["embeddings"]
    with Embedder.load(REFERENCE / "bert-mean", dtype=dtype) as embedder:
        found = embedder.encode(facts["texts"])
    assert found.dtype == np.float32
    assert dtype == "float32" or np.abs(found - expected).max() > 1e-5  # it was really computed in it
    assert (found * expected).sum(axis=1).min() >= cosine


# ── in a forked child ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["bert-mean", "bert-bf16", "bert-fp16", "bert-sharded", "bert-dense"])
def test_weights_are_read_alike_without_mlxs_threads(name, monkeypatch):
    with Embedder.load(REFERENCE / name) as embedder:
        expected = embedder.encode(["a", "Snow fell through the night."])

    def mlx_load(*_, **__):
        raise AssertionError("this would wait for ever")

    monkeypatch.setattr(weights, "_is_child", True)
    monkeypatch.setattr(loading.mx, "load", mlx_load)
    with Embedder.load(REFERENCE / name) as embedder:
        np.testing.assert_array_equal(embedder.encode(["a", "Snow fell through the night."]), expected)


def test_numbers_that_are_no_floats(folder):
    """Integers are never taken where floats belong."""
    edit_weights(folder / "model.safetensors", lambda w: w.update({WEIGHT: np.ones(w[WEIGHT].shape, np.uint8)}))
    refuse(folder, UnsupportedModelError, WEIGHT.split(".")[-1], "is stored as uint8, where floats are wanted")


def test_dtypes_that_are_not_read_are_named(folder):
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    assert b'"F32"' in raw
    file.write_bytes(raw.replace(b'"F32"', b'"F4" ', 1))
    refuse(folder, UnsupportedModelError, "is stored as F4, which is not read here")


HEADS = {
    "bert-mean": "classifier.weight",
    "distilbert-mean": "pre_classifier.weight",
    "mpnet-mean": "classifier.out_proj.weight",
    "xlm-roberta-cls": "classifier.dense.weight",
    "qwen3-embedding": "score.weight",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_tasks_head_beside_the_backbone_is_left_where_it_is(tmp_path, name):
    """modules.json says that it is an embedder; the reference leaves such weights too."""
    folder = tmp_path / name
    shutil.copytree(REFERENCE / name, folder)
    with Embedder.load(folder) as embedder:
        before = embedder.encode(["harbour"])
    file = next(iter(sorted(folder.glob("model*.safetensors"))))
    edit_weights(file, lambda weights: weights.update({HEADS[name]: np.ones((2, 3), np.float32)}))
    with Embedder.load(folder) as embedder:
        assert (embedder.encode(["harbour"]) == before).all()


# ── numbers that are not finite ──────────────────────────────────────────────────────────────────────


@pytest.mark.checkpoint("bert-mean")
def test_weights_that_hold_nan_are_named(folder):
    edit_weights(
        folder / "model.safetensors", lambda w: w.update({WEIGHT: np.full(w[WEIGHT].shape, np.nan, np.float32)})
    )
    with Embedder.load(folder) as embedder, pytest.raises(InputError) as caught:
        embedder.encode(["a"])
    assert "the weights themselves hold NaN or infinity (" in str(caught.value)
    assert "try dtype" not in str(caught.value)


@pytest.mark.checkpoint("bert-exclude-prompt-modes")
def test_in_float32_no_other_dtype_is_recommended(folder):
    """A prompt that fills the text leaves nothing to take the greatest of."""
    change(folder / "sentence_bert_config.json", query_length=6)
    with Embedder.load(folder, dtype="float32") as embedder, pytest.raises(InputError) as caught:
        embedder.encode_query(["a text of some words"])
    assert "the weights are finite, and it was computed in float32: no setting helps" in str(caught.value)
