"""What transformers' classes say of config.json's fields: the table is theirs, and it is followed."""

import json
import logging
import sys

import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.config_defaults import complete_config
from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures import ARCHITECTURES
from support.checkpoints import REFERENCE

# Transformers has no class for these.
OWN_CODE = {"bidirectional_pplx_qwen3", "jina_bert", "llama_bidirec", "ministral3_bidirec", "new", "static"}
TOWERS = {"embedding_gemma2"}  # whose fields are those of the class of its tower for texts


def complete(tmp_path, **config):
    return complete_config(config, tmp_path / "config.json")


def test_the_table_is_what_the_classes_say(monkeypatch):
    """Of the installed transformers; the reference's 5.24 says the same."""
    monkeypatch.syspath_prepend(str(REFERENCE))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    import config_fields

    fields = config_fields.read_fields(config_fields.model_types())
    assert config_fields.as_text(fields) == config_fields.FILE.read_text(encoding="utf-8")
    assert set(fields) == ARCHITECTURES.keys() - OWN_CODE - TOWERS
    del sys.modules["config_fields"]


def test_a_null_is_not_absent(tmp_path):
    assert complete(tmp_path, model_type="mistral").config["sliding_window"] == 4096
    assert complete(tmp_path, model_type="mistral", sliding_window=None).config["sliding_window"] is None
    with pytest.raises(CheckpointError, match="layer_norm_eps must be float, not None"):
        complete(tmp_path, model_type="bert", layer_norm_eps=None)


def test_a_null_that_stands_for_another_number(tmp_path):
    said = {"num_attention_heads": 4, "hidden_size": 32, "num_key_value_heads": None, "head_dim": None}
    config = complete(tmp_path, model_type="ernie4_5", **said).config
    assert (config["num_key_value_heads"], config["head_dim"]) == (4, 8)


def test_aliases_win(tmp_path):
    assert complete(tmp_path, model_type="distilbert", dim=16, hidden_size=32).config["dim"] == 32


@pytest.mark.parametrize(
    ("kind", "said", "defaults"),
    [
        ("glm", {}, {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        ("gte", {"rope_parameters": {"rope_theta": 5.0}}, {}),
        ("gemma3_text", {}, {"rope_theta": 1e6, "rope_local_base_freq": 1e4}),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, {"local_rope_theta": 1e4}),
    ],
)
def test_rotary_settings(kind, said, defaults, tmp_path):
    found = complete(tmp_path, model_type=kind, **said).defaults
    assert {name: value for name, value in found.items() if "rope" in name or "rotary" in name} == defaults


@pytest.mark.checkpoint("bert-mean")
def test_info_tells_them_and_the_fingerprint_stays(folder):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["layer_norm_eps"]
    file.write_text(json.dumps(config))
    with Embedder.load(folder) as embedder:
        assert embedder.info()["config_defaults"] == {"layer_norm_eps": "1e-12 (config.json: default of bert)"}
        assert embedder.fingerprint
