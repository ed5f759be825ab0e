"""One side of the fuzz, in a process of its own: folders in, rows out, a line of JSON each.

`reference` computes with sentence-transformers, `ours` with akidb-mlx.
"""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
Rows = dict[str, list[list[float]]]


def make_reference() -> Callable[[str, list[str]], Rows]:
    import logging

    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")

    def compute(folder: str, texts: list[str]) -> Rows:
        model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True)
        alone = {"batch_size": 1, "convert_to_numpy": True, "show_progress_bar": False}
        rows = {
            "plain": model.encode(texts, **alone),
            "query": model.encode_query(texts, **alone),
            "document": model.encode_document(texts, **alone),
        }
        again = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True)
        if abs(again.encode(texts[:2], **alone) - rows["plain"][:2]).max() > 1e-6:
            raise ValueError("REFERENCE: weights that the files lack are drawn anew at each load")
        return {name: one.tolist() for name, one in rows.items()}

    return compute


def make_ours() -> Callable[[str, list[str]], Rows]:
    import logging

    from akidb_mlx import Embedder  # isort: skip  # before mlx
    import transformers  # noqa: F401  # once, and not in a child for each tokenizer

    logging.disable(logging.WARNING)

    def compute(folder: str, texts: list[str]) -> Rows:
        with Embedder.load(folder, device="cpu", exact_reference=True) as embedder:
            rows = {
                "plain": embedder.encode(texts),
                "query": embedder.encode_query(texts),
                "document": embedder.encode_document(texts),
            }
        return {name: one.tolist() for name, one in rows.items()}

    return compute


def main(side: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    compute = make_reference() if side == "reference" else make_ours()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer = {"rows": compute(asked["folder"], asked["texts"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:600]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
