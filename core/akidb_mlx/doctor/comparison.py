"""How much of what one model finds another of its kind finds: cosines, the ten nearest, size, speed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from akidb_mlx import vectors
from akidb_mlx.doctor.texts import Texts
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import expect_long_texts
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.reranker import Reranker
from akidb_mlx.sparse_embedder import SparseEmbedder
from akidb_mlx.vectors import Embeddings

__all__ = ["Comparable", "Comparison", "Measured", "compare", "table"]

Comparable = Embedder | Reranker | SparseEmbedder | MultiVectorEmbedder
_NEAREST: Final = 10
_RERANKED: Final = (20, 40)  # queries, documents of each: a reranker reads every pair
_PASSES: Final = 2


@dataclass(frozen=True)
class Measured:
    """One of the two."""

    name: str
    dtype: str
    """What it computes in."""
    weight_bytes: int
    """Of the main files."""
    memory_bytes: int
    """Of the loaded weights."""
    per_second: float
    """Texts, or a reranker's pairs; the better of two passes, by turns with the other model's."""


@dataclass(frozen=True)
class Comparison:
    """Of the second model with the first; a figure is None where there is no such thing."""

    texts: str
    queries: int
    documents: int
    first: Measured
    second: Measured
    recall_at_10: float
    """The first's ten nearest of each query: the share of them that are among the second's."""
    least_cosine: float | None
    """Of a text's rows, or a token's (multi-vector); None for rerankers, and where rows have other widths."""
    median_cosine: float | None
    largest_difference: float | None
    """Of scores, for rerankers."""

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Rows = NDArray[np.floating]


def compare(first: Comparable, second: Comparable, texts: Texts) -> Comparison:
    """Compare two loaded models; ConfigError where they are of different kinds."""
    if type(first) is not type(second):
        raise ConfigError(f"{second!r} is of another kind than {first!r}; compare two models of a kind")
    if isinstance(first, Reranker):
        texts = replace(texts, queries=texts.queries[: _RERANKED[0]], documents=texts.documents[: _RERANKED[1]])
    if texts.ours:
        expect_long_texts(first)
        expect_long_texts(second)
    run = _RUNS[type(first)]
    found: list[tuple[Embeddings, Rows | None]] = []
    best = [np.inf, np.inf]
    for _ in range(_PASSES):
        for place, model in enumerate((first, second)):
            began = time.perf_counter()
            found = [*found, run(model, texts)][:2]
            best[place] = min(best[place], time.perf_counter() - began)
    (scores, rows), (other_scores, other_rows) = found
    cosines = _cosines(rows, other_rows)
    asked = scores.size if rows is None else len(texts.queries) + len(texts.documents)
    return Comparison(
        texts.name,
        len(texts.queries),
        len(texts.documents),
        _measured(first, asked / best[0]),
        _measured(second, asked / best[1]),
        _kept(scores, other_scores, same=texts.same),
        None if cosines is None else float(cosines.min()),
        None if cosines is None else float(np.median(cosines)),
        float(np.abs(scores - other_scores).max()) if rows is None else None,
    )


def table(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(what, the first model's, the second's), in words."""
    one, two = comparison.first, comparison.second
    unit = "pairs/s" if comparison.largest_difference is not None else "texts/s"
    told = [
        ("", one.name, two.name),
        ("weights in files", f"{one.weight_bytes / 1e6:.1f} MB", f"{two.weight_bytes / 1e6:.1f} MB"),
        (f"in memory, {two.dtype}", f"{one.memory_bytes / 1e6:.1f} MB", f"{two.memory_bytes / 1e6:.1f} MB"),
        (unit, f"{one.per_second:.0f}", f"{two.per_second:.0f}"),
        (f"recall@{_NEAREST}", "1", f"{comparison.recall_at_10:.3f}"),
    ]
    if comparison.least_cosine is not None:
        told.append(("least cosine", "1", f"{comparison.least_cosine:.4f}"))
        told.append(("median cosine", "1", f"{comparison.median_cosine:.4f}"))
    if comparison.largest_difference is not None:
        told.append(("largest difference of scores", "0", f"{comparison.largest_difference:.4g}"))
    return told


def _dense(embedder: Embedder, texts: Texts) -> tuple[Embeddings, Rows]:
    queries, documents = embedder.encode_query(texts.queries), embedder.encode_document(texts.documents)
    return embedder.similarity(queries, documents), np.concatenate([queries, documents])


def _sparse(sparse: SparseEmbedder, texts: Texts) -> tuple[Embeddings, Rows]:
    queries, documents = sparse.encode_query(texts.queries), sparse.encode_document(texts.documents)
    return sparse.similarity(queries, documents), np.concatenate([queries.to_dense(), documents.to_dense()])


def _multi(multi: MultiVectorEmbedder, texts: Texts) -> tuple[Embeddings, Rows]:
    queries, documents = multi.encode_query(texts.queries), multi.encode_document(texts.documents)
    return multi.similarity(queries, documents), np.concatenate([queries.vectors, documents.vectors])


def _pairs(reranker: Reranker, texts: Texts) -> tuple[Embeddings, None]:
    scores = reranker.predict([(query, document) for query in texts.queries for document in texts.documents])
    if scores.ndim > 1:
        raise ConfigError(f"{reranker!r} gives several scores per pair, by which nothing is ranked")
    return scores.reshape(len(texts.queries), len(texts.documents)), None


_RUNS: Final[Mapping[type, Callable[[Any, Texts], tuple[Embeddings, Rows | None]]]] = {
    Embedder: _dense,
    Reranker: _pairs,
    SparseEmbedder: _sparse,
    MultiVectorEmbedder: _multi,
}


def _cosines(rows: Rows | None, others: Rows | None) -> Embeddings | None:
    if rows is None or others is None or rows.shape != others.shape:
        return None
    empty = ~rows.any(axis=1) & ~others.any(axis=1)  # a text without sparse entries in both
    return np.where(empty, np.float32(1), vectors.similarity_pairwise(rows, others))


def _kept(scores: Embeddings, others: Embeddings, *, same: bool) -> float:
    nearest = [_nearest(found, same=same) for found in (scores, others)]
    return float(np.mean([len({*a} & {*b}) / len(a) for a, b in zip(*nearest, strict=True)]))


def _nearest(scores: Embeddings, *, same: bool) -> list[list[int]]:
    scores = scores.astype(np.float32)
    if same:
        np.fill_diagonal(scores, -np.inf)
    found: list[list[int]] = np.argsort(-scores, axis=1, kind="stable")[:, :_NEAREST].tolist()
    return found


def _measured(model: Comparable, per_second: float) -> Measured:
    recipe, info = model._loaded.recipe, model.info()
    size = sum(file.stat().st_size for file in recipe.checkpoint.weight_files)
    return Measured(info["model_name"], info["dtype"], size, info["parameter_bytes"], per_second)
