"""Every reference checkpoint gives the reference's vectors, in the dtype that the device or the user chooses.

float32: largest difference 1e-5 × max(1, largest); 16 bit: a least cosine. `-k float32`, `-k as_stored` (what a user
gets: 16 bit on a GPU, float32 on the CPU) and `-k "float16 or bfloat16"` (on any device) choose a form.
"""

import json
from collections import defaultdict

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.model.architectures import ARCHITECTURES
from support.checkpoints import CASES, REFERENCE, TASK_CASES, TASKS, read_case
from support.comparison import assert_close, cosines

# Heads as wide as real models'; the others have 8 or 16 channels, which no fused attention of Metal's takes.
WIDE_HEADS = [name for name in CASES if name.startswith("heads-")]
# Least cosine with the float32 vectors, by the dtype that is computed in.
LEAST_COSINE = {"float16": 0.9999, "bfloat16": 0.97}
LEAST_COSINE_WIDE_HEADS = {"float16": 0.9999, "bfloat16": 0.998}
FACTS = {name: read_case(name)[1] for name in CASES}
TRANSFORMERS = [
    name for name in CASES if FACTS[name]["family"] != "static"
]  # static models add float32 whatever is said
STORED_HALF = [name for name in TRANSFORMERS if FACTS[name]["stored_dtype"] in LEAST_COSINE]


def half_forms(name):
    """The 16-bit dtypes to compute in: the stored one; with wide heads both, but Gemma 3 and T5 overflow in float16."""
    forms = list(LEAST_COSINE) if name in WIDE_HEADS else [FACTS[name]["stored_dtype"]]
    config = json.loads((REFERENCE / name / "config.json").read_text()) if "float16" in forms else {}
    backbone = ARCHITECTURES.get(config.get("model_type"))
    return [form for form in forms if form != "float16" or not getattr(backbone, "overflows_in_float16", False)]


def least_cosine(name, dtype):
    return (LEAST_COSINE_WIDE_HEADS if name in WIDE_HEADS else LEAST_COSINE)[dtype]


@pytest.mark.parametrize(
    ("name", "form"), [*((name, "float32") for name in CASES), *((name, "as_stored") for name in STORED_HALF)]
)
def test_vectors_equal_the_references(name, form):
    folder, facts, reference = read_case(name)
    dtype = None if form in ("as_stored", facts["stored_dtype"]) else form
    with Embedder.load(folder, dtype=dtype) as embedder:
        encoders = {"embeddings": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
        computed = embedder.info()["dtype"]
        for kind in encoders.keys() & reference.keys():
            ours, theirs = encoders[kind](facts["texts"]), reference[kind]
            if computed == "float32":
                assert_close(ours, theirs, 1e-5)
            else:
                assert cosines(ours, theirs).min() >= least_cosine(name, computed), kind


@pytest.mark.parametrize("name", CASES)
def test_each_text_alone_gives_the_same(name):
    """No vector depends on its batch, nor on the padding (also where the tokenizer would pad on the left).

    Up to rounding, which random weights amplify: with MLX's exact functions too the worst of these checkpoints
    varies by 2.0e-6 between batches, where texts of usual models vary by 1e-6 at most (test_embedder). In float32,
    for in the 16 bits that a GPU would take another kernel for another batch rounds otherwise.
    """
    folder, facts, _ = read_case(name)
    with Embedder.load(folder, dtype="float32") as embedder:
        together = embedder.encode(facts["texts"])
        alone = np.concatenate([embedder.encode([text]) for text in facts["texts"]])
        assert_close(alone, together, 5e-6)


@pytest.mark.parametrize("name", CASES)
def test_token_ids_equal_the_references(name):
    folder, facts, _ = read_case(name)
    if "token_ids" not in facts:
        pytest.skip("a static model: its reference states ids before any limit")
    with Embedder.load(folder) as embedder:
        encodings = embedder._path.encoder.encode(facts["texts"], "").encodings
        assert [encoding.token_ids.tolist() for encoding in encodings] == facts["token_ids"]
        assert embedder.count_tokens(facts["texts"]) == list(map(len, facts["token_ids"]))
        assert embedder.max_seq_length == facts["max_seq_length"]


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in STORED_HALF for dtype in half_forms(name)])
def test_half_precision_stays_near(name, dtype):
    """In 16 bit, as a GPU computes: near the float32 vectors, as the reference's own are; also the shortest alone."""
    folder, facts, reference = read_case(name)
    lengths = [len(ids) for ids in facts["token_ids"]]
    short = [place for place, length in enumerate(lengths) if length <= max(9, min(lengths))]
    with Embedder.load(folder, dtype=dtype) as embedder:
        ours = embedder.encode(facts["texts"])
        alone = np.concatenate([embedder.encode([facts["texts"][place]]) for place in short])
    least = least_cosine(name, dtype)
    assert cosines(ours, reference["embeddings"]).min() >= least
    assert cosines(alone, reference["embeddings"][short]).min() >= least
    if dtype == facts["stored_dtype"]:
        assert cosines(ours, reference["stored_dtype_embeddings"]).min() >= least


@pytest.mark.parametrize("name", WIDE_HEADS)
def test_mistakes_would_show_in_16_bit(name):
    """Unit vectors that differ by d in one number have a cosine of 1 − d² / 2 at most."""
    least, changes = least_cosine(name, FACTS[name]["stored_dtype"]), FACTS[name]["config_changes_that_must_show"]
    assert changes
    for what, moved in changes.items():
        assert 1 - moved**2 / 2 < least, what


def test_the_cases_differ_enough():
    """Fourteen families or more, each with two checkpoints at least, or one for those that only mlx-lm's test."""
    families = defaultdict(list)
    for name in CASES:
        families[FACTS[name]["family"]].append(name)
    assert sum(len(names) >= 2 for names in families.values()) >= 14


def test_every_architecture_has_a_case():
    """A row without a case is a guess."""
    folders = [*(REFERENCE / name for name in CASES), *(TASKS / name for name in TASK_CASES)]
    assert ARCHITECTURES.keys() == {read_checkpoint(folder).model_type for folder in folders}
