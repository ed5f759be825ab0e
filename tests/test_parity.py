"""Every reference checkpoint gives the reference's vectors: float32, largest difference 1e-5 × max(1, largest)."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.architectures import ARCHITECTURES

REFERENCE = Path(__file__).parent / "reference"
CASES = sorted(folder.parent.name for folder in REFERENCE.glob("*/reference.json"))
# Least cosine with the float32 vectors, computing in the dtype that the weights are stored in.
LEAST_COSINE = {"float16": 0.9999, "bfloat16": 0.97}


def read_case(name):
    folder = REFERENCE / name
    facts = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    return folder, facts, dict(np.load(folder / "reference.npz"))


STORED_HALF = [name for name in CASES if read_case(name)[1]["stored_dtype"] in LEAST_COSINE]


def difference(ours, theirs):
    """Largest absolute difference as a share of what is allowed: at most 1."""
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    return float(np.abs(ours - theirs).max() / (1e-5 * max(1.0, np.abs(theirs).max())))


def cosines(a, b):
    return (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_vectors_equal_the_references(name):
    folder, facts, reference = read_case(name)
    # A GPU would compute in the stored dtype; a static model has no dtype to choose.
    with Embedder.load(folder, **({"dtype": "float32"} if facts["stored_dtype"] != "float32" else {})) as embedder:
        texts = facts["texts"]
        assert difference(embedder.encode(texts), reference["embeddings"]) <= 1
        if "query" in reference:
            assert difference(embedder.encode_query(texts), reference["query"]) <= 1
        if "document" in reference:
            assert difference(embedder.encode_document(texts), reference["document"]) <= 1


@pytest.mark.parametrize("name", CASES)
def test_each_text_alone_gives_the_same(name):
    """No vector depends on its batch, nor on the padding (also where the tokenizer would pad on the left).

    Up to rounding, which random weights amplify: with MLX's exact functions too the worst of these checkpoints
    varies by 2.0e-6 between batches, where texts of usual models vary by 1e-6 at most (test_embedder).
    """
    folder, facts, _ = read_case(name)
    with Embedder.load(folder) as embedder:
        together = embedder.encode(facts["texts"])
        alone = np.concatenate([embedder.encode([text]) for text in facts["texts"]])
        assert np.abs(together - alone).max() <= 5e-6 * max(1.0, np.abs(together).max())


@pytest.mark.parametrize("name", CASES)
def test_token_ids_equal_the_references(name):
    folder, facts, _ = read_case(name)
    if "token_ids" not in facts:
        pytest.skip("a static model: its reference states ids before any limit")
    with Embedder.load(folder) as embedder:
        ids = embedder._loaded.tokenizer.tokenize(facts["texts"]).token_ids
        assert [row.tolist() for row in ids] == facts["token_ids"]
        assert embedder.max_seq_length == facts["max_seq_length"]


@pytest.mark.parametrize("name", STORED_HALF)
def test_half_precision_stays_near(name):
    """In the dtype of the stored weights, as a GPU computes: near the float32 vectors, as the reference's own are."""
    folder, facts, reference = read_case(name)
    dtype = facts["stored_dtype"]
    if facts["family"] == "static":
        pytest.skip("sums of table rows, added in float32 whatever the dtype")
    with Embedder.load(folder, dtype=dtype) as embedder:
        ours = embedder.encode(facts["texts"])
    assert cosines(ours, reference["embeddings"]).min() >= LEAST_COSINE[dtype]
    assert cosines(ours, reference["stored_dtype_embeddings"]).min() >= LEAST_COSINE[dtype]


def test_the_cases_differ_enough():
    """Fourteen families or more, each with two checkpoints at least, or one for those that only mlx-lm's test."""
    families = defaultdict(list)
    for name in CASES:
        families[read_case(name)[1]["family"]].append(name)
    assert sum(len(names) >= 2 for names in families.values()) >= 14


def test_every_architecture_has_a_case():
    """A row without a case is a guess."""
    types = set()
    for name in CASES:
        config = next((REFERENCE / name).rglob("config.json"), None)
        transformer = (REFERENCE / name / "config.json", REFERENCE / name / "0_Transformer" / "config.json")
        for file in transformer:
            if file.exists():
                types.add(json.loads(file.read_text()).get("model_type"))
        assert config is not None or "static" in name
    assert ARCHITECTURES.keys() - types == {"static"}


def test_the_docs_are_of_these_cases():
    text = (REFERENCE.parent.parent / "docs" / "parity.md").read_text(encoding="utf-8")
    assert f"{len(CASES)} checkpoints;" in text, "run python benchmarks/parity_table.py"
