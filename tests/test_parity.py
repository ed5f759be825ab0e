"""Every reference checkpoint gives sentence-transformers' vectors: float32, largest difference 1e-5 × max(1, largest)."""

import json
from pathlib import Path

import numpy as np
import pytest

from akidb_mlx import Embedder

REFERENCE = Path(__file__).parent / "reference"
CASES = sorted(folder.parent.name for folder in REFERENCE.glob("*/reference.json"))


def read_case(name):
    folder = REFERENCE / name
    facts = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    return folder, facts, dict(np.load(folder / "reference.npz"))


def difference(ours, theirs):
    """Largest absolute difference as a share of what is allowed: at most 1."""
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    return float(np.abs(ours - theirs).max() / (1e-5 * max(1.0, np.abs(theirs).max())))


@pytest.mark.parametrize("name", CASES)
def test_vectors_equal_the_references(name):
    folder, facts, reference = read_case(name)
    with Embedder.load(folder) as embedder:
        texts = facts["texts"]
        assert difference(embedder.encode(texts), reference["embeddings"]) <= 1
        if "query" in reference:
            assert difference(embedder.encode_query(texts), reference["query"]) <= 1
        if "document" in reference:
            assert difference(embedder.encode_document(texts), reference["document"]) <= 1


def test_there_are_cases():
    assert len(CASES) >= 20
