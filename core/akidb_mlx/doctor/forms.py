"""Probes of loaded sparse, multi-vector and hybrid models: does each behave as one must?"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from akidb_mlx.doctor.findings import Finding, Outcome
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.doctor.model import ANSWER, OTHER_ANSWER, QUESTION, TEXTS, examine
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.sparse_embedder import SparseEmbedder
from akidb_mlx.vectors import Embeddings

__all__ = ["examine_hybrid", "examine_multi_vector", "examine_sparse"]

M = TypeVar("M")
# A row of which more than this share is not zero is no sparse one.
_MOST_ACTIVE = 0.5
_MUCH_TEXT = 2048
_LENGTH_ERROR = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}


def examine_sparse(sparse: SparseEmbedder) -> Iterator[Finding]:
    """Probe by probe; a failed one does not stop the others."""
    return _probed(sparse, _SPARSE)


def examine_multi_vector(multi: MultiVectorEmbedder) -> Iterator[Finding]:
    """Probe by probe; a failed one does not stop the others."""
    return _probed(multi, _MULTI)


def examine_hybrid(hybrid: HybridEmbedder) -> Iterator[Finding]:
    """All probes of the three forms, and whether one pass gives what each gives by itself."""
    for form, findings in (
        ("dense", examine(hybrid.dense)),
        ("sparse", examine_sparse(hybrid.sparse)),
        ("multi-vector", examine_multi_vector(hybrid.multi)),
    ):
        for finding in findings:
            yield Finding(f"{form}: {finding.probe}", finding.passed, finding.detail)
    yield from _probed(hybrid, {"one pass = each alone": _one_pass})


def _probed(model: M, probes: dict[str, Callable[[M], Outcome]]) -> Iterator[Finding]:
    for name, probe in probes.items():
        try:
            yield Finding(name, *probe(model))
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {error}")


# sparse


def _entries(sparse: SparseEmbedder) -> Outcome:
    rows = sparse.encode_document(TEXTS)
    if len(rows) != len(TEXTS) or rows.dimension != sparse.dimension or rows.values.dtype != np.float32:
        return False, f"{len(rows)} rows of {rows.dimension} {rows.values.dtype} for {len(TEXTS)} texts"
    if not np.isfinite(rows.values).all():
        return False, "not all values are finite"
    if rows.values.size and rows.values.min() < 0:
        return False, f"values from {rows.values.min():.4g}: none should be negative"
    counts = np.diff(rows.indptr)
    told = f"{counts.min()} to {counts.max()} of {sparse.dimension} entries, up to {rows.values.max(initial=0):.4g}"
    plausible = 0 < counts.max() <= _MOST_ACTIVE * sparse.dimension
    return bool(plausible), told if plausible else f"{told}: no sparse rows"


def _sparse_batch(sparse: SparseEmbedder) -> Outcome:
    alone = np.concatenate([sparse.encode_document([text]).to_dense() for text in TEXTS])
    return _equal(sparse.encode_document(TEXTS).to_dense(), alone, sparse.info()["dtype"])


def _sparse_differ(sparse: SparseEmbedder) -> Outcome:
    """Equal rows for everything are a head without weights."""
    rows = sparse.encode_document(TEXTS[:3]).to_dense()
    difference = float(min(np.abs(rows[0] - rows[1]).max(), np.abs(rows[0] - rows[2]).max()))
    return difference > 1e-4, f"unlike texts differ by {difference:.2g} at least"


def _sparse_limit(sparse: SparseEmbedder) -> Outcome:
    text, tried = _long_text(sparse.max_seq_length)
    rows = sparse.encode_document([text])
    finite = bool(np.isfinite(rows.values).all() and len(rows.values))
    return finite, f"{tried} tokens: {f'{len(rows.values)} entries' if finite else 'not finite, or empty'}"


def _sparse_answer(sparse: SparseEmbedder) -> Outcome:
    scores = sparse.similarity(sparse.encode_query([QUESTION]), sparse.encode_document([ANSWER, OTHER_ANSWER]))[0]
    return _above(scores)


# vectors per token


def _token_vectors(multi: MultiVectorEmbedder) -> Outcome:
    rows = multi.encode_document(TEXTS)
    if len(rows) != len(TEXTS) or rows.dimension != multi.dimension:
        return False, f"{len(rows)} rows of {rows.dimension} numbers for {len(TEXTS)} texts"
    if not np.isfinite(rows.vectors).all():
        return False, "not all vectors are finite"
    lengths = np.linalg.norm(np.asarray(rows.vectors, np.float32), axis=1)
    told = f"{np.diff(rows.offsets).min()} to {np.diff(rows.offsets).max()} vectors of {multi.dimension} numbers"
    if not multi._checkpoint.head.normalize:
        return True, f"{told}, not normalised"
    limit = _LENGTH_ERROR.get(_dtype(multi), 1e-2)
    return bool(np.abs(lengths - 1).max() <= limit), f"{told}, lengths {lengths.min():.6f} to {lengths.max():.6f}"


def _counts(multi: MultiVectorEmbedder) -> Outcome:
    """As many vectors as the mask keeps tokens."""
    if multi.info().get("token_pooling"):
        return None, "token pooling merges vectors"
    for side, rows in (("query", multi.encode_query(TEXTS)), ("document", multi.encode_document(TEXTS))):
        wanted = [len(tokens) for tokens in multi.tokens(TEXTS, side=side)]  # type: ignore[arg-type]
        if np.diff(rows.offsets).tolist() != wanted:
            return False, f"{side}: {np.diff(rows.offsets).tolist()} vectors for {wanted} tokens"
    return True, "a vector for each token that counts, of queries and documents"


def _multi_batch(multi: MultiVectorEmbedder) -> Outcome:
    alone = np.concatenate([multi.encode_document([text]).vectors for text in TEXTS])
    return _equal(multi.encode_document(TEXTS).vectors, alone, _dtype(multi))


def _multi_limit(multi: MultiVectorEmbedder) -> Outcome:
    text, tried = _long_text(multi.max_seq_length)
    rows = multi.encode_document([text])
    finite = bool(np.isfinite(rows.vectors).all() and len(rows.vectors))
    return finite, f"{tried} tokens: {f'{len(rows.vectors)} vectors' if finite else 'not finite, or none'}"


def _itself(multi: MultiVectorEmbedder) -> Outcome:
    """No text is more like a text than itself, where vectors have unit length."""
    if not multi._checkpoint.head.normalize:
        return None, "vectors are not normalised"
    rows = multi.encode_document(TEXTS[:4])
    scores = multi.similarity(rows, rows)
    own = np.diagonal(scores)[:, None]
    return bool((scores <= own + 1e-3 * np.abs(own)).all()), f"own scores {own.min():.4g} to {own.max():.4g}"


def _multi_answer(multi: MultiVectorEmbedder) -> Outcome:
    return _above(multi.similarity(multi.encode_query([QUESTION]), multi.encode_document([ANSWER, OTHER_ANSWER]))[0])


def _one_pass(hybrid: HybridEmbedder) -> Outcome:
    together = hybrid.encode_document(TEXTS)
    dtype = hybrid.dense.info()["dtype"]
    outcomes = [
        _equal(together.dense, hybrid.dense.encode_document(TEXTS), dtype),
        _equal(together.sparse.to_dense(), hybrid.sparse.encode_document(TEXTS).to_dense(), dtype),
        _equal(together.multi.vectors, hybrid.multi.encode_document(TEXTS).vectors, dtype),
    ]
    return all(passed for passed, _ in outcomes), "; ".join(told for _, told in outcomes)


_SPARSE: dict[str, Callable[[SparseEmbedder], Outcome]] = {
    "entries": _entries,
    "batch = single": _sparse_batch,
    "not constant": _sparse_differ,
    "at the length limit": _sparse_limit,
    "answer above other": _sparse_answer,
}
_MULTI: dict[str, Callable[[MultiVectorEmbedder], Outcome]] = {
    "vectors": _token_vectors,
    "tokens counted": _counts,
    "batch = single": _multi_batch,
    "itself is nearest": _itself,
    "at the length limit": _multi_limit,
    "answer above other": _multi_answer,
}


def _dtype(multi: MultiVectorEmbedder) -> str:
    """Whichever rounds vectors more: what they are computed in, or given in."""
    computed, given = str(multi.info()["dtype"]), str(multi.encode_document(TEXTS[:1]).vectors.dtype)
    return given if computed == "float32" else computed


def _equal(some: Embeddings, others: Embeddings, dtype: str) -> Outcome:
    if some.shape != others.shape:
        return False, f"{some.shape} together and {others.shape} alone"
    some, others = np.asarray(some, np.float32), np.asarray(others, np.float32)
    difference = float(np.abs(some - others).max() / max(1.0, np.abs(others).max()))
    limit = LIMITS[dtype].rows
    return difference <= limit, f"they differ by {difference:.2g} (at most {limit:g})"


def _above(scores: Sequence[float] | Embeddings) -> Outcome:
    return bool(scores[0] > scores[1]), f"question/answer {scores[0]:.4f}, question/other answer {scores[1]:.4f}"


def _long_text(limit: int | None) -> tuple[str, int]:
    tried = min(limit or 512, _MUCH_TEXT)
    return " ".join([ANSWER] * (tried // 6 + 1)), tried
