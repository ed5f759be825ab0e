"""The reference's rows for a sparse encoder's folder, and checks that they tell right from wrong."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reranker_pairs import text_of
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sparse_case import SparseCase
from sparse_texts import SHARED_TEXTS

from corpus import PARAGRAPHS

logging.getLogger("sentence_transformers").setLevel(logging.ERROR)

SIDES = ("query", "document")
FEW = 5  # entries that `few` keeps


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SparseEncoder:
    """The reference, computing in `dtype`: transformers 5 would else compute in the stored one."""
    return SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype}).eval()


def encode(model: SparseEncoder, texts: list[str], side: str | None = None, **options: Any) -> np.ndarray:
    """(n, dimension) float32; each text alone, so nothing is padded."""
    call = model.encode if side is None else getattr(model, f"encode_{side}")
    rows = [call([text], convert_to_sparse_tensor=False, batch_size=1, **options)[0] for text in texts]
    return torch.stack(rows).float().numpy()


def input_module(model: SparseEncoder, side: str) -> Any:
    first = model[0]
    return first.sub_modules[side][0] if isinstance(first, Router) else first


def token_ids(model: SparseEncoder, text: str, side: str) -> list[int]:
    features = input_module(model, side).preprocess([text], prompt=model.prompts.get(side) or None)
    return [int(number) for number in features["input_ids"][0]]


def limit(model: SparseEncoder) -> int:
    return int(input_module(model, "document").max_seq_length)


def make_texts(model: SparseEncoder) -> dict[str, str]:
    """The shared ones, and some around the limit of documents."""
    tokenizer = input_module(model, "document").tokenizer
    prompt = model.prompts.get("document") or ""

    def count(text: str) -> int:
        return len(tokenizer(prompt + text, truncation=False)["input_ids"])

    most = limit(model)
    return {
        **SHARED_TEXTS,
        "limit - 1": text_of(count, most - 1, PARAGRAPHS[5]),
        "limit": text_of(count, most, PARAGRAPHS[6]),
        "limit + 1": text_of(count, most + 1, PARAGRAPHS[7]),
    }


def compute(case: SparseCase, model: SparseEncoder, texts: list[str]) -> dict[str, np.ndarray]:
    """`query`, `document`, `embeddings` where a text may be neither, `few`: documents with fewer entries."""
    rows = {side: encode(model, texts, side) for side in SIDES}
    if not isinstance(model[0], Router) or model[0].default_route is not None:
        rows["embeddings"] = encode(model, texts)
    rows["few"] = encode(model, texts, "document", max_active_dims=FEW)
    for name in case.prompts.keys() - set(SIDES):
        rows[f"prompt_{name}"] = encode(model, texts, prompt_name=name)
    queries, documents = (torch.from_numpy(rows[side][:8]) for side in SIDES)
    rows["similarity"] = model.similarity(queries, documents).numpy()
    return rows


def check(case: SparseCase, model: SparseEncoder, texts: list[str], rows: dict[str, np.ndarray]) -> None:
    """Finite, different from text to text, without ties where entries are chosen, independent of the batch."""
    assert all(np.isfinite(values).all() for values in rows.values())
    documents = rows["document"]
    scale = max(1.0, float(np.abs(documents).max()))
    assert np.abs(documents[1:] - documents[:-1]).max(axis=1).min() > 1e-2, "two texts look alike"
    entries = (documents != 0).sum(axis=1)
    assert 0 < entries.min() < documents.shape[1] * 0.95, "nothing is zero"
    whole = encode(model, texts, "document", max_active_dims=documents.shape[1])
    for row in np.sort(np.abs(whole), axis=1)[:, ::-1]:
        for kept in (FEW, case.max_active_dims or FEW):
            assert kept >= len(row) or row[kept - 1] - row[kept] > 1e-5 or row[kept - 1] == 0, "a tie"
    together = model.encode_document(texts, convert_to_sparse_tensor=False, batch_size=len(texts)).float().numpy()
    error = float(np.abs(together - documents).max()) / scale
    assert error < 3e-6, f"batch differs by {error}"
    for label, tokens in (("limit - 1", limit(model) - 1), ("limit", limit(model)), ("limit + 1", limit(model))):
        found = len(token_ids(model, make_texts(model)[label], "document"))
        assert found == tokens, f"{label}: {found} tokens, not {tokens}"
    for side in SIDES:
        for place, text in enumerate(texts[1:], start=1):
            assert token_ids(model, text, side) or side == "query", place


def check_precision(model: SparseEncoder, texts: list[str], documents: np.ndarray) -> None:
    """The reference's own rounding leaves room within a tolerance of 1e-5; leaves the model in float64."""
    exact = encode(model.double(), texts, "document")
    error = float(np.abs(exact - documents).max()) / max(1.0, float(np.abs(documents).max()))
    assert error < 4e-6, f"badly conditioned: float32 is off by {error}"


def moved_by_mistakes(case: SparseCase, folder: Path, texts: list[str], documents: np.ndarray) -> dict[str, float]:
    """Each named mistake moves the documents' rows visibly; gives the largest difference by name."""
    moved = {}
    for name, mistake in case.mistakes.items():
        other = load(folder)
        mistake(other)
        moved[name] = float(np.abs(encode(other, texts, "document") - documents).max())
        assert moved[name] > 1e-3, f"{name} is not visible: {moved[name]}"
    return moved


def drop_caches(folder: Path) -> None:
    shutil.rmtree(folder / ".cache", ignore_errors=True)
