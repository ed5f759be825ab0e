"""Decoders with experts: config.json's names, and the forms that one checkpoint's weights may have."""

import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures import make_backbone
from akidb_mlx.model.architectures.mixtures import MIXTURES, gather_experts
from akidb_mlx.model.layers.experts import Mixture
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close
from support.weights import save_weights

TEXTS = ["a horse", "Snow fell through the night.", "Which trees grow in the garden?"]
ONE = re.compile(r"(.*)experts\.(\d+)\.(\w+)\.weight$")
KINDS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def config_of(name):
    return json.loads((REFERENCE / name / "config.json").read_text(encoding="utf-8"))


def stacked(weights):
    """Experts one by one → the rest, and (layer's name, kind) → one array."""
    found = {name: match.groups() for name in weights if (match := ONE.match(name))}
    rest = {name: weight for name, weight in weights.items() if name not in found}
    parts = {}
    for name, (parent, expert, kind) in found.items():
        parts.setdefault((parent, KINDS.get(kind, kind)), {})[int(expert)] = weights[name]
    return rest, {key: mx.stack([part[expert] for expert in sorted(part)]) for key, part in parts.items()}


def as_mlx_lm(weights):
    rest, parts = stacked(weights)
    return rest | {f"{parent}switch_mlp.{kind}.weight": part for (parent, kind), part in parts.items()}


def as_transformers_5(weights):
    """Its own names in memory, `mlp.` whatever the class was called before."""
    rest, parts = stacked(weights)
    for parent in {parent for parent, _ in parts}:
        both = [parts[parent, kind] for kind in ("gate_proj", "up_proj")]
        rest[f"{parent}experts.gate_up_proj"] = mx.concatenate(both, axis=1)
        rest[f"{parent}experts.down_proj"] = parts[parent, "down_proj"]
    return {name.replace(".block_sparse_moe.", ".mlp."): weight for name, weight in rest.items()}


@pytest.mark.parametrize("form", [as_mlx_lm, as_transformers_5])
@pytest.mark.parametrize("name", ["mixtral-causal-lm", "qwen3-moe", "qwen2-moe", "olmoe", "ernie4_5-moe"])
def test_every_form_of_the_same_weights(tmp_path, name, form):
    folder, _, reference = read_case(name)
    shutil.copytree(folder, tmp_path / "model")
    file = str(tmp_path / "model" / "model.safetensors")
    save_weights(file, form(mx.load(file)))
    _, facts, _ = read_case(name)
    with Embedder.load(tmp_path / "model", dtype="float32") as embedder:
        assert_close(embedder.encode(facts["texts"]), reference["embeddings"], 1e-5)


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral-causal-lm"])
def test_either_name_of_the_number_of_experts(tmp_path, name):
    shutil.copytree(REFERENCE / name, tmp_path / "model")
    config = config_of(name)
    old = next(key for key in ("num_experts", "num_local_experts") if key in config)
    config["num_local_experts" if old == "num_experts" else "num_experts"] = config.pop(old)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with Embedder.load(REFERENCE / name) as first, Embedder.load(tmp_path / "model") as second:
        assert np.array_equal(first.encode(TEXTS), second.encode(TEXTS))


def test_two_numbers_of_experts_that_differ():
    config = config_of("olmoe")
    with pytest.raises(CheckpointError, match="num_experts and num_local_experts must state one number of experts"):
        make_backbone(config | {"num_local_experts": config["num_experts"] + 1})


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("qwen3-moe-some-layers", {}, [False, True, False, False]),
        ("qwen3-moe-some-layers", {"mlp_only_layers": None}, [False, True, False, True]),
        ("qwen3-moe-some-layers", {"decoder_sparse_step": 1}, [True, True, True, False]),
        ("ernie4_5-moe", {"num_hidden_layers": 4, "moe_layer_end_index": -1}, [False, True, True, True]),
        ("ernie4_5-moe", {"num_hidden_layers": 4, "moe_layer_end_index": 2}, [False, True, True, False]),
        (
            "ernie4_5-moe",
            {"num_hidden_layers": 4, "moe_layer_interval": 2, "moe_layer_end_index": 3},
            [False, True] * 2,
        ),
        ("mixtral-causal-lm", {}, [True, True]),
    ],
)
def test_which_layers_have_experts(name, changes, expected):
    layers = make_backbone(config_of(name) | {"head_dim": 8} | changes).model.layers
    assert [isinstance(layer.mlp, Mixture) for layer in layers] == expected


def test_experts_that_do_not_count_from_nought_stay_as_they_are():
    """Then loading names them."""
    weights = {f"model.layers.0.mlp.experts.{expert}.up_proj.weight": mx.zeros((2, 2)) for expert in (1, 2)}
    assert gather_experts(weights).keys() == weights.keys()


def test_every_kind_has_two_checkpoints():
    types = [
        config_of(folder.name)["model_type"] for folder in REFERENCE.iterdir() if (folder / "config.json").exists()
    ]
    assert {name for name in MIXTURES if types.count(name) < 2} == set()
