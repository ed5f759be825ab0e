"""Scores on the host: activations, rankings. Pure NumPy, float32."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from akidb_mlx.vectors import Embeddings

__all__ = ["Ranked", "finish_scores", "ranking"]


class Ranked(NamedTuple):
    """One document of a ranking."""

    corpus_id: int
    """Its place in what was given."""
    score: float


def _sigmoid(x: Embeddings) -> Embeddings:
    # exp of a number that is not positive cannot overflow
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)


def _softmax(x: Embeddings) -> Embeddings:
    e = np.exp(x - x.max(axis=1, keepdims=True)) if x.size else x
    shares: Embeddings = (e / e.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


_ACTIVATIONS: Mapping[str, Callable[[Embeddings], Embeddings]] = {
    "identity": lambda x: x,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "tanh": np.tanh,
}


def finish_scores(rows: Embeddings, activation: str) -> Embeddings:
    """(n, labels) numbers of the model → scores: (n,) for one label, else (n, labels); float32."""
    scores = _ACTIVATIONS[activation](rows)
    return scores[:, 0] if rows.shape[1] == 1 else scores


def ranking(scores: Embeddings, top_k: int | None) -> list[Ranked]:
    """(n,) scores, best first, equal ones in the given order; at most `top_k`."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Ranked(int(place), float(scores[place])) for place in order]
