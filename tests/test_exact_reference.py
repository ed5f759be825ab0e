"""The deliberate differences: `info` tells those that hold, and one setting gives the reference's rows exactly."""

import json

import numpy as np
import pytest

from akidb_mlx import Embedder
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close


def test_rows_that_are_cut(tmp_path):
    folder, facts, reference = read_case("bert-cls")
    assert np.allclose(np.linalg.norm(reference["embeddings"], axis=1), 1, atol=1e-5)
    with Embedder.load(folder, exact_reference=True, truncate_dim=8) as embedder:
        assert_close(embedder.encode(facts["texts"]), reference["embeddings"][:, :8], 1e-5)
        asked = embedder.encode(facts["texts"], normalize=True)  # which the reference does after the cut
        assert embedder.info()["differences"] == []
    with Embedder.load(folder, truncate_dim=8) as embedder:
        assert_close(embedder.encode(facts["texts"]), asked, 1e-6)
        assert embedder.info()["differences"] == [
            "cut rows are scaled to unit length again; sentence-transformers leaves them shorter"
        ]


def test_a_passage_prompt():
    folder, facts, reference = read_case("bert-passage-prompt")
    with Embedder.load(folder, exact_reference=True) as embedder:
        assert_close(embedder.encode_document(facts["texts"]), reference["embeddings"], 1e-5)
        assert_close(embedder.encode_query(facts["texts"]), reference["query"], 1e-5)
        one = embedder.fingerprint
    with Embedder.load(folder) as embedder:
        assert_close(embedder.encode_document(facts["texts"]), reference["document"], 1e-5)
        assert embedder.fingerprint != one
        told = "the prompt 'passage' serves documents; sentence-transformers puts none before them"
        assert embedder.info()["differences"] == [told]


@pytest.mark.checkpoint("tokenizer-rebuilt-llama")
def test_end_tokens(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_eos_token": True}))
    reference = np.load(REFERENCE / "tokenizer-rebuilt-llama" / "reference.npz")["embeddings"]
    texts = json.loads((REFERENCE / "tokenizer-rebuilt-llama" / "reference.json").read_text())["texts"]
    with Embedder.load(folder, exact_reference=True) as embedder:  # which leaves the flag unread
        assert_close(embedder.encode(texts), reference, 1e-5)
        assert embedder.info()["differences"] == []
    with Embedder.load(folder) as embedder:
        assert np.abs(embedder.encode(texts) - reference).max() > 1e-3
        assert "ends each text, as tokenizer_config.json says" in embedder.info()["differences"][0]
