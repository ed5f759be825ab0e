"""Real weights: all-MiniLM-L6-v2 gives sentence-transformers' vectors, and they mean something."""

import json

import numpy as np
import pytest

from akidb_mlx.cli import main
from support.checkpoints import MINILM
from support.comparison import assert_close, assert_unit_length
from support.places import ROOT

FILE = ROOT / "tests" / "reference_minilm.npz"  # make reference
REFERENCE = dict(np.load(FILE))
TEXTS = json.loads((ROOT / "tests" / "minilm_texts.json").read_text(encoding="utf-8"))


def test_the_reference_is_of_these_texts():
    assert REFERENCE["texts"].tolist() == TEXTS
    assert REFERENCE["embeddings"].shape == (len(TEXTS), 384)
    assert len(TEXTS) == len(set(TEXTS)) >= 40
    assert_unit_length(REFERENCE["embeddings"], 1e-5)


def test_tokens_are_counted_as_the_reference_does(minilm):
    assert minilm.count_tokens(TEXTS) == REFERENCE["tokens"].tolist()
    assert max(minilm.count_tokens(TEXTS)) == 256 == minilm.max_seq_length


def test_vectors_equal_the_references(minilm):
    rows = minilm.encode(TEXTS)
    assert rows.shape == (len(TEXTS), 384)
    assert_close(rows, REFERENCE["embeddings"], 1e-5)


def test_doctor_finds_the_same(minilm):
    assert main(["doctor", MINILM, "--reference", str(FILE)]) == 0


@pytest.mark.parametrize("order", [1, -1])
def test_texts_alone_equal_the_references(minilm, order):
    places = list(range(len(TEXTS)))[::order][:12]
    for place in places:
        rows = minilm.encode([TEXTS[place]])
        assert_close(rows[0], REFERENCE["embeddings"][place], 1e-5)


def test_queries_and_documents_are_alike_without_prompts(minilm):
    assert_close(minilm.encode_query(TEXTS[:5]), minilm.encode_document(TEXTS[:5]))


def test_meaning(minilm):
    documents = [
        "A valve lets the water down to the fields.",
        "Slice the onions and let them soften in butter.",
        "Trains stop when there is too much snow on the line.",
    ]
    questions = ["irrigation", "how do I cook onions?", "why is there no railway service in winter?"]
    scores = minilm.similarity(minilm.encode_query(questions), minilm.encode_document(documents))
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]


def test_what_the_checkpoint_says(minilm):
    info = minilm.info()
    assert (info["dimension"], info["pooling"], info["normalize"], info["max_seq_length"]) == (384, "mean", True, 256)
    assert (info["architecture"], info["similarity"], info["prompts"]) == ("bert", "cosine", {})
