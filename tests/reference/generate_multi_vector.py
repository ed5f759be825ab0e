"""Make the tiny late-interaction models of `tests/reference/multi_vector` and the reference's vectors for them.

    python generate_multi_vector.py [case …]      # all of them without arguments

Needs torch, transformers, sentence-transformers and scipy; downloads nothing. multi_vector/README.md says what the
files are.
"""
# ruff: noqa: I001 -- the environment is set before the imports that read it.

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import sentence_transformers
import torch
import transformers as hf
from case import copy_checkpoint, write_facts
from corpus import PARAGRAPHS, WORDS
from multi_vector_case import MultiVectorCase, write_model
from multi_vector_cases import CASES
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

HERE = Path(__file__).parent / "multi_vector"
log = logging.getLogger("generate")
# (vectors, width, clusters at most)
CLUSTERED = [(2, 3, 1), (3, 2, 2), (5, 4, 4), (9, 3, 3), (17, 8, 8), (17, 8, 16), (30, 8, 10), (40, 16, 20)]
SIDES = {"query": "query", "document": "document", "plain": None}
SHARED_TEXTS = {
    "sentence": "The first boat leaves with its lamp still burning.",
    "punctuation": "Salt, lemons; and (warm) bread!",
    "question": "Which trees grow in the garden?",
    "one word": "tea",
    "empty": "",
    "only punctuation": "?! ... , ;",
    "markers": "[unused0] tea [Q] and [D] bread [unused1] [MASK] tea",
    "pad token in it": "a [PAD] or <pad> in the midst",
    "other scripts": "na\u00efve \u4f60\u597d \U0001f642",
    "long": PARAGRAPHS[0],
}


def load(case: MultiVectorCase, folder: Path, dtype: torch.dtype = torch.float32) -> MultiVectorEncoder:
    """The reference, computing in `dtype`: transformers 5 would else compute in the stored one."""
    model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    if case.amend is not None:
        case.amend(model[0].model)
    return model.eval()


def encode(model: MultiVectorEncoder, texts: list[str], side: str, **options: Any) -> list[np.ndarray]:
    """Rows of each text alone, so nothing is padded but what is filled up."""
    method = {"query": model.encode_query, "document": model.encode_document, "plain": model.encode}[side]
    return [method([text], convert_to_numpy=True, **options)[0].astype(np.float32) for text in texts]


def prompt_of(model: MultiVectorEncoder, side: str) -> str | None:
    return model._resolve_prompt(None, side if side != "plain" else None)


def features(model: MultiVectorEncoder, text: str, side: str) -> dict[str, Any]:
    return model.preprocess([text], prompt=prompt_of(model, side), task=SIDES[side])


def count(model: MultiVectorEncoder, text: str) -> int:
    prompt = prompt_of(model, "document")
    options = {"text": {"truncation": False}}
    return int(model.preprocess([text], prompt=prompt, processing_kwargs=options)["input_ids"].shape[-1])


def make_texts(case: MultiVectorCase, model: MultiVectorEncoder) -> dict[str, str]:
    """Shared texts, and documents one token less than the limit, of the limit, one more; those without tokens go."""
    limit = features(model, " ".join(WORDS), "document")["input_ids"].shape[-1]
    fitted = {}
    for label, wanted in (("limit - 1", limit - 1), ("limit", limit), ("limit + 1", limit + 1)):
        fitted[label] = fit(model, wanted)
    texts = {**SHARED_TEXTS, **fitted}
    return {label: text for label, text in texts.items() if count(model, text)}


def fit(model: MultiVectorEncoder, wanted: int) -> str:
    words = list(WORDS)
    taken = 0
    while count(model, " ".join(words[: taken + 1])) <= wanted:
        taken += 1
    text = " ".join(words[:taken])
    while count(model, text) < wanted:
        text += "." if count(model, text + " a") > wanted else " a"
    assert count(model, text) == wanted, (text, count(model, text), wanted)
    return text


def make(case: MultiVectorCase) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / case.name
        write_model(case, folder)
        model = load(case, folder)
        labelled = make_texts(case, model)
        texts = list(labelled.values())
        arrays: dict[str, np.ndarray] = {}
        token_ids = {}
        for side in SIDES:
            rows = encode(model, texts, side)
            arrays[side] = np.concatenate(rows)
            arrays[f"{side}_offsets"] = np.cumsum([0, *map(len, rows)])
            token_ids[side] = [features(model, text, side)["input_ids"][0].tolist() for text in texts]
            check_batch(case, model, texts, side, rows)
        queries, documents = (
            [torch.tensor(row) for row in encode(model, texts, side)] for side in ("query", "document")
        )
        arrays["similarity"] = model.similarity(queries, documents).numpy()
        if case.name == "fixed":  # per call, beside none of the files'
            pooled = encode(model, texts, "document", token_pooling=HierarchicalTokenPooling(3.0))
            arrays["pooled"] = np.concatenate(pooled)
            arrays["pooled_offsets"] = np.cumsum([0, *map(len, pooled)])
        check_rows(arrays)
        check_precision(case, folder, texts, arrays)
        facts = {
            "case": case.name,
            "family": case.family,
            "checks": case.checks,
            "labels": list(labelled),
            "own_texts": {label: text for label, text in labelled.items() if label not in SHARED_TEXTS},
            "prompts": {side: prompt_of(model, side) for side in SIDES},
            "dimension": model.get_embedding_dimension(),
            "max_seq_length": model.max_seq_length,
            "similarity": model.similarity_fn_name,
            "stored_dtype": str(case.dtype).removeprefix("torch."),
            "token_ids": token_ids,
            "versions": {one.__name__: one.__version__ for one in (sentence_transformers, hf, torch)},
        }
        if case.disguise:
            case.disguise(folder)
        np.savez_compressed(folder / "expected.npz", **arrays)
        write_facts(folder / "expected.json", facts)
        copy_checkpoint(folder, HERE / case.name)
    size = sum(path.stat().st_size for path in (HERE / case.name).rglob("*") if path.is_file())
    scores = arrays["similarity"]
    kept = scores[scores > -1e8]
    return f"{case.name:24} {len(texts):3} texts {kept.min():8.3f} … {kept.max():7.3f} {size // 1000:4} kB"


def check_batch(case: MultiVectorCase, model: MultiVectorEncoder, texts: list[str], side: str, rows: list[Any]) -> None:
    """The reference's own rows in a batch are those of each text alone, unless the case says otherwise."""
    method = {"query": model.encode_query, "document": model.encode_document, "plain": model.encode}[side]
    together = method(texts, batch_size=len(texts), convert_to_numpy=True)
    same = all(len(one) == len(other) for one, other in zip(rows, together, strict=True))
    if same:
        largest = max((np.abs(one - other).max(initial=0) for one, other in zip(rows, together, strict=True)))
        same = bool(largest < 1e-5)
    if not same:
        log.info("  %s: %s rows differ in a batch", case.name, side)


def check_rows(arrays: dict[str, np.ndarray]) -> None:
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert arrays["query"].std(axis=0).min() > 0.05, "rows look alike"


def check_precision(case: MultiVectorCase, folder: Path, texts: list[str], arrays: dict[str, np.ndarray]) -> None:
    """The reference's own rounding leaves room within a tolerance of 1e-5."""
    if case.token_pooling is not None:
        return
    exact = load(case, folder).double()
    for side in SIDES:
        method = {"query": exact.encode_query, "document": exact.encode_document, "plain": exact.encode}[side]
        found = np.concatenate([method([text])[0].numpy() for text in texts])
        error = np.abs(found - arrays[side]).max() / max(1.0, float(np.abs(arrays[side]).max()))
        assert error < 4e-6, f"badly conditioned: {side} in float32 is off by {error}"


def write_clusters() -> None:
    """Ward's clusters of drawn vectors, by scipy as the reference asks it: what `token_pooling.clusters` must give."""
    rows = []
    for seed, (count, width, most) in enumerate(CLUSTERED):
        vectors = np.random.default_rng(seed).standard_normal((count, width))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        distances = np.clip(1 - vectors @ vectors.T, 0, 2)
        tree = hierarchy.linkage(squareform(distances, checks=False), method="ward")
        labels = hierarchy.fcluster(tree, t=most, criterion="maxclust")
        labels = np.unique(labels, return_inverse=True)[1]
        rows.append({"seed": seed, "count": count, "width": width, "most": most, "labels": labels.tolist()})
    write_facts(HERE / "clusters.json", {str(row["seed"]): row for row in rows})


def main(names: list[str]) -> None:
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    unknown = set(names) - {case.name for case in CASES}
    if unknown:
        sys.exit(f"unknown cases: {', '.join(sorted(unknown))}")
    HERE.mkdir(exist_ok=True)
    write_facts(HERE / "texts.json", SHARED_TEXTS)
    write_clusters()
    for case in CASES:
        if not names or case.name in names:
            log.info(make(case))


if __name__ == "__main__":
    main(sys.argv[1:])
