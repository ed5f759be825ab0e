"""Make the tiny sparse encoders of `tests/reference/sparse` and the reference's rows for them.

    python generate_sparse.py [case …]      # all of them without arguments

Needs torch, transformers and sentence-transformers; downloads nothing. sparse/README.md says what the files are.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import sentence_transformers
import sparse_reference as reference
import torch
import transformers as hf
from case import copy_checkpoint, write_facts
from sparse_case import SparseCase, write_sparse
from sparse_cases import CASES
from sparse_texts import SHARED_TEXTS

HERE = Path(__file__).parent / "sparse"
log = logging.getLogger("generate")


def make(case: SparseCase) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / case.name
        write_sparse(case, folder)
        model = reference.load(folder)
        labelled = reference.make_texts(model)
        texts = list(labelled.values())
        rows = reference.compute(case, model, texts)
        reference.check(case, model, texts, rows)
        facts = describe(case, model, labelled, rows)
        if case.dtype != torch.float32:
            stored = reference.load(folder, case.dtype)
            rows["stored_dtype_document"] = reference.encode(stored, texts, "document")
        facts["mistakes_that_must_show"] = reference.moved_by_mistakes(case, folder, texts, rows["document"])
        reference.check_precision(model, texts, rows["document"])
        for name in ("query", "embeddings"):  # what is the documents' again need not be kept
            if name in rows and np.array_equal(rows[name], rows["document"]):
                del rows[name]
        if case.disguise:
            case.disguise(folder)
        packages = (sentence_transformers, hf, torch)
        facts["versions"] = {package.__name__: package.__version__ for package in packages}
        np.savez_compressed(
            folder / "expected.npz", **{name: values.astype(np.float32) for name, values in rows.items()}
        )
        write_facts(folder / "expected.json", facts)
        copy_checkpoint(folder, HERE / case.name)
    return summary(case, rows)


def describe(case: SparseCase, model: Any, labelled: dict[str, str], rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """What is written to expected.json, but for the mistakes."""
    dense = torch.from_numpy(rows["document"][:8])
    return {
        "case": case.name,
        "family": case.family,
        "checks": case.checks,
        "plain": case.modules is None,
        "dimension": rows["document"].shape[1],
        "max_active_dims": model.max_active_dims,
        "similarity": model.similarity_fn_name,
        "max_seq_length": reference.limit(model),
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "stored_dtype": str(case.dtype).removeprefix("torch."),
        "labels": list(labelled),
        "own_texts": {label: text for label, text in labelled.items() if label not in SHARED_TEXTS},
        "query_token_ids": [reference.token_ids(model, text, "query") for text in labelled.values()],
        "document_token_ids": [reference.token_ids(model, text, "document") for text in labelled.values()],
        "decoded": [[token for token, _ in row] for row in model.decode(dense, top_k=4)],
    }


def summary(case: SparseCase, rows: dict[str, np.ndarray]) -> str:
    size = sum(path.stat().st_size for path in (HERE / case.name).rglob("*") if path.is_file())
    documents = rows["document"]
    entries = (documents != 0).sum(axis=1)
    return (
        f"{case.name:26} {case.family:12} {documents.shape[0]} × {documents.shape[1]}, "
        f"{entries.min()} … {entries.max()} entries, to {documents.max():.2f}, {size // 1000} kB"
    )


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
    for case in CASES:
        if not names or case.name in names:
            log.info(make(case))


if __name__ == "__main__":
    main(sys.argv[1:])
