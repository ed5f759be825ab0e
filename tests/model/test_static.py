"""Static models: the tokens' own vectors, with sentence-transformers' or model2vec's rules for the tokenizer."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.errors import AkiDBMLXError, CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.static import Static
from support.batches import batch_of
from support.checkpoints import REFERENCE
from support.weights import save_weights


@pytest.fixture
def copied(tmp_path):
    def copy(name):
        return shutil.copytree(REFERENCE / name, tmp_path / name)

    return copy


def ids_of(folder, text):
    with Embedder.load(folder) as embedder:
        return embedder._loaded.tokenizer.tokenize([text]).token_ids[0].tolist()


def test_rows_mappings_and_weights():
    backbone = Static({})
    weights = {
        "embeddings": mx.array([[1.0, 2.0], [10.0, 20.0]]),
        "mapping": mx.array([1, 0, 1], dtype=mx.int64),
        "weights": mx.array([1.0, 2.0, 0.5]),
    }
    backbone.load_weights(list(backbone.sanitize(weights).items()))
    assert backbone.width == 2
    rows = backbone(batch_of([[0, 1, 2, -1]]))
    assert rows.tolist() == [[[10, 20], [2, 4], [5, 10], [0, 0]]]


def test_an_empty_text_gives_zeros_also_among_others():
    with Embedder.load(REFERENCE / "static-root") as embedder:
        rows = embedder.encode(["", "Snow fell", ""])
        assert not rows[0].any()
        assert not rows[2].any()
        assert rows[1].any()


def test_no_special_tokens():
    folder = REFERENCE / "static-subfolder"
    ids = ids_of(folder, "Snow fell")
    with Embedder.load(REFERENCE / "bert-mean") as bert:
        with_specials = bert._loaded.tokenizer.tokenize(["Snow fell"]).token_ids[0].tolist()
    assert len(ids) == len(with_specials) - 2


def test_only_model2vec_drops_unknown_tokens():
    text = "Snow 東京 fell"
    assert len(ids_of(REFERENCE / "potion", text)) > len(ids_of(REFERENCE / "model2vec", text))
    assert ids_of(REFERENCE / "model2vec", text) == ids_of(REFERENCE / "model2vec", "Snow fell")


def test_lengths():
    unlimited, cut, stated, silent = (
        read_checkpoint(REFERENCE / name)
        for name in ("static-root", "static-truncated", "model2vec", "model2vec-unnormalised")
    )
    assert unlimited.max_seq_length is None
    assert (cut.max_seq_length, cut.sources["max_seq_length"]) == (16, "tokenizer.json")
    assert stated.max_seq_length == 48
    assert (silent.max_seq_length, silent.sources["max_seq_length"]) == (512, "model2vec's default")


def test_model2vec_cuts_characters_before_tokens():
    """48 tokens of 2 characters in the median: what is beyond 96 characters never counts."""
    folder = REFERENCE / "model2vec"
    with Embedder.load(folder) as embedder:
        tokenizer = embedder._loaded.tokenizer
        part = tokenizer.tokenize([" " * tokenizer._max_characters + "Snow fell", "Snow"])
        assert part.token_ids[0].tolist() == [-1]
        assert part.truncated == [0]


def test_a_user_may_limit_the_length():
    with Embedder.load(REFERENCE / "static-root", max_seq_length=3) as embedder:
        assert embedder.count_tokens(["one two three four five six"]) == [3]


def test_a_token_beyond_the_table_is_refused(copied):
    folder = copied("static-root")
    file = str(folder / "model.safetensors")
    save_weights(file, {"embedding.weight": mx.load(file)["embedding.weight"][:20]})
    with Embedder.load(folder) as embedder, pytest.raises(AkiDBMLXError, match=r"the model knows only 20"):
        embedder.encode(["Snow fell through the night"])


def test_weights_without_a_table_are_refused(copied):
    folder = copied("static-root")
    save_weights(folder / "model.safetensors", {"other": mx.zeros((4, 4))})
    with pytest.raises(CheckpointError, match=r"neither `embedding.weight` nor `embeddings`"):
        Embedder.load(folder)


def test_a_pooling_module_after_static_embeddings_is_refused(copied):
    folder = copied("static-root")
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(1, {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModelError, match=r"module Pooling"):
        Embedder.load(folder)


def test_potion_by_model2vec_itself_differs():
    """With modules.json the reference is sentence-transformers, which keeps unknown tokens."""
    reference = np.load(REFERENCE / "potion" / "reference.npz")
    assert np.abs(reference["embeddings"] - reference["model2vec"]).max() > 1e-3
