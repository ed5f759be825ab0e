"""Make the tiny rerankers of `tests/reference/rerankers` and the reference's scores for them.

    python generate_rerankers.py [case …]      # all of them without arguments

Needs torch, transformers and sentence-transformers; downloads nothing. rerankers/README.md says what the files are.
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
import reranker_reference as reference
import sentence_transformers
import torch
import transformers as hf
from case import copy_checkpoint, write_facts
from reranker_case import RerankerCase, write_reranker
from reranker_pairs import SHARED_PAIRS
from reranker_cases import CASES

HERE = Path(__file__).parent / "rerankers"
log = logging.getLogger("generate")


def make(case: RerankerCase) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / case.name
        write_reranker(case, folder)
        model = reference.load_case(case, folder)
        labelled, left_out = reference.make_pairs(case, model)
        pairs = list(labelled.values())
        rows = reference.compute(case, model, pairs)
        facts = describe(case, model, labelled, left_out)
        if case.dtype != torch.float32:
            stored = reference.load_case(case, folder, case.dtype)
            rows["stored_dtype_logits"] = reference.logits_of(stored, pairs)
        reference.check_scores(case, model, labelled, rows)
        reference.check_lengths(case, model, labelled)
        reference.check_truncation(case, model, labelled, rows["logits"])
        facts["mistakes_that_must_show"] = reference.moved_by_mistakes(case, folder, pairs, rows["logits"])
        reference.check_precision(model, pairs, rows["logits"])
        if case.disguise:
            case.disguise(folder)
        write_expected(folder, rows, facts)
        copy_checkpoint(folder, HERE / case.name)
    return summary(case, rows)


def describe(
    case: RerankerCase, model: Any, labelled: dict[str, tuple[str, str]], left_out: dict[str, str]
) -> dict[str, Any]:
    """What is written to expected.json, but for the mistakes."""
    return {
        "case": case.name,
        "family": case.family,
        "checks": case.checks,
        "modules": [type(module).__name__ for module in model],
        "transformer_task": model[0].transformer_task,
        "num_labels": model.num_labels,
        "activation": sentence_transformers.util.fullname(model.activation_fn),
        "max_seq_length": model.max_seq_length,
        "usable_length": reference.limit(case),
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "chat_template": "message" in model[0].modality_config,
        "stored_dtype": str(case.dtype).removeprefix("torch."),
        "labels": list(labelled),
        "own_pairs": {label: pair for label, pair in labelled.items() if label not in SHARED_PAIRS},
        "left_out": left_out,
        **reference.describe_rows(model, list(labelled.values())),
    }


def write_expected(folder: Path, rows: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    packages = (sentence_transformers, hf, torch)
    facts["versions"] = {package.__name__: package.__version__ for package in packages}
    np.savez_compressed(folder / "expected.npz", **rows)
    write_facts(folder / "expected.json", facts)


def summary(case: RerankerCase, rows: dict[str, np.ndarray]) -> str:
    size = sum(path.stat().st_size for path in (HERE / case.name).rglob("*") if path.is_file())
    logits = rows["logits"]
    shape = " × ".join(str(number) for number in logits.shape)
    return f"{case.name:34} {case.family:14} {shape:8} {logits.min():8.3f} … {logits.max():7.3f} {size // 1000:4} kB"


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
    write_facts(HERE / "pairs.json", SHARED_PAIRS)
    for case in CASES:
        if not names or case.name in names:
            log.info(make(case))


if __name__ == "__main__":
    main(sys.argv[1:])
