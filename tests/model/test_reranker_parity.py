"""Every reference reranker gives CrossEncoder's numbers, in float32: largest difference 1e-5 × max(1, largest)."""

import numpy as np
import pytest

from akidb_mlx import Reranker
from akidb_mlx.checkpoint.heads import ClassificationHead
from akidb_mlx.checkpoint.reranker_facts import read_reranker_checkpoint
from akidb_mlx.model.heads.classifier import CLASSIFIERS
from support.checkpoints import RERANKER_CASES, read_reranker_case
from support.comparison import assert_close

FACTS = {name: read_reranker_case(name)[1] for name in RERANKER_CASES}


@pytest.fixture(scope="module", params=RERANKER_CASES)
def case(request):
    folder, facts, arrays, pairs = read_reranker_case(request.param)
    with Reranker.load(folder, dtype="float32") as reranker:
        yield reranker, facts, arrays, pairs


def test_scores_equal_the_references(case):
    """Each way the file has: before the activation, as predict gives them, with another prompt."""
    reranker, _, arrays, pairs = case
    for key, expected in arrays.items():
        allowed = 1e-5
        if key == "scores":
            found = reranker.predict(pairs)
            if "logits" in arrays:  # what 1e-5 of those may move them by: a sigmoid's slope is a quarter at most
                allowed *= max(1, np.abs(arrays["logits"]).max() / 4)
        elif key == "logits":
            found = reranker.predict(pairs, activation="identity")
        elif key.startswith("logits_"):
            found = reranker.predict(pairs, prompt_name=key.removeprefix("logits_"), activation="identity")
        else:  # computed in the stored dtype, which rounds more
            continue
        assert found.dtype == np.float32
        assert_close(found, expected, allowed)


def test_facts_equal_the_references(case):
    reranker, facts, _, _ = case
    assert reranker.num_labels == facts["num_labels"]
    assert reranker.activation == facts["activation"].rpartition(".")[2].lower()
    assert dict(reranker.info()["prompts"]) == facts["prompts"]


def test_tokens_equal_the_references(case):
    reranker, facts, _, pairs = case
    prompt = reranker._prompts.query
    encodings = reranker._path.encoder.encode(pairs, prompt).encodings
    assert [encoding.token_ids.tolist() for encoding in encodings] == facts["token_ids"]
    counts = reranker.count_tokens(pairs, prompt)
    assert counts == [len(ids) for ids in facts["token_ids"]]


def test_each_pair_alone_equals_the_references(case):
    """Without company: another batch, no padding."""
    reranker, _, arrays, pairs = case
    found = arrays["logits"].copy()
    for place in range(0, len(pairs), 5):
        found[place] = reranker.predict([pairs[place]], activation="identity")[0]
    assert_close(found, arrays["logits"], 1e-5)


def test_every_classifier_has_a_case():
    read = [read_reranker_checkpoint(read_reranker_case(name)[0]) for name in RERANKER_CASES]
    assert set(CLASSIFIERS) <= {one.model_type for one in read if isinstance(one.head, ClassificationHead)}
