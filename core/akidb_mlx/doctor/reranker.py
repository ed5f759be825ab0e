"""Probes of a loaded reranker: does it behave as one must? All of them look at the numbers before the activation."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from akidb_mlx.doctor.findings import Finding, Outcome
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.reranker import Pair, Reranker
from akidb_mlx.vectors import Embeddings

__all__ = ["examine_reranker"]

# Question, what answers it, what has some of its words and does not.
_QUESTIONS = (
    (
        "What is the capital of China?",
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other.",
    ),
    (
        "How do I reset a forgotten password?",
        "Choose 'Forgot password' on the sign-in page and follow the link in the mail.",
        "The museum is closed on Mondays, and on public holidays it opens at noon.",
    ),
    (
        "Which planet is called the red planet?",
        "Mars is often called the red planet because of the iron oxide on its surface.",
        "Red wine should be served slightly below room temperature.",
    ),
)
_RELATED: list[Pair] = [(question, answer) for question, answer, _ in _QUESTIONS]
_UNRELATED: list[Pair] = [(question, other) for question, _, other in _QUESTIONS]
_PAIRS: list[Pair] = [*_RELATED, *_UNRELATED, ("a", "")]
# Less than this, in a model's own numbers, is no difference that ranks anything.
_LEAST_DIFFERENCE = 1e-4
_MUCH_TEXT = 2048


def examine_reranker(reranker: Reranker) -> Iterator[Finding]:
    """Probe by probe; a failed one does not stop the others."""
    for name, probe in _PROBES.items():
        try:
            yield Finding(name, *probe(reranker))
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {error}")


def _shape(reranker: Reranker) -> Outcome:
    labels = reranker.num_labels
    scores = reranker.predict(_PAIRS)
    wanted = (len(_PAIRS),) if labels == 1 else (len(_PAIRS), labels)
    if scores.shape != wanted or scores.dtype != np.float32:
        return False, f"{scores.shape} {scores.dtype} instead of {wanted} float32"
    finite = bool(np.isfinite(scores).all())
    told = f"{labels} score{'s' if labels > 1 else ''} a pair by {reranker.activation}"
    return finite, told if finite else f"{told}, not all finite"


def _batch(reranker: Reranker) -> Outcome:
    alone = np.concatenate([_logits(reranker, [pair]) for pair in _PAIRS])
    together = _logits(reranker, _PAIRS)
    difference = float(np.abs(together - alone).max() / max(1.0, np.abs(alone).max()))
    limit = LIMITS[reranker.info()["dtype"]].rows
    return difference <= limit, f"together and alone they differ by {difference:.2g} (at most {limit:g})"


def _swapped(reranker: Reranker) -> Outcome:
    """A reranker reads query and text as two; a template or pair that loses a side scores both orders alike."""
    pairs = [*_RELATED, *_UNRELATED]
    swapped = [(text, query) for query, text in pairs]
    difference = float(np.abs(_logits(reranker, pairs) - _logits(reranker, swapped)).max())
    return difference > _LEAST_DIFFERENCE, f"query and text exchanged differ by up to {difference:.2g}"


def _constant(reranker: Reranker) -> Outcome:
    """One number for everything is a head without weights, or a token that does not exist."""
    rows = _logits(reranker, [*_RELATED, *_UNRELATED])
    spread = float(np.ptp(rows, axis=0).max())
    return spread > _LEAST_DIFFERENCE, f"unlike pairs are from {rows.min():.4g} to {rows.max():.4g}"


def _both_sides(reranker: Reranker) -> Outcome:
    """Beside a text beyond the limit another query still gives another score."""
    (question, answer, other), limit = _QUESTIONS[0], reranker.max_seq_length or 512
    text = " ".join([answer] * (min(limit, _MUCH_TEXT) // 6 + 1))
    scores = _logits(reranker, [(question, text), (other, text)])
    difference = float(np.abs(scores[0] - scores[1]).max())
    if not np.isfinite(scores).all():
        return False, f"not finite beside a text of {min(limit, _MUCH_TEXT)} tokens"
    return difference > _LEAST_DIFFERENCE, f"two queries beside a long text differ by {difference:.2g}"


def _related(reranker: Reranker) -> Outcome:
    if reranker.num_labels > 1:
        return None, f"{reranker.num_labels} labels, and nothing says which is relevance"
    right, wrong = _logits(reranker, _RELATED)[:, 0], _logits(reranker, _UNRELATED)[:, 0]
    told = ", ".join(f"{a:.3g} against {b:.3g}" for a, b in zip(right, wrong, strict=True))
    return bool((right > wrong).all()), f"answers against others: {told}"


_PROBES: dict[str, Callable[[Reranker], Outcome]] = {
    "shape": _shape,
    "batch = single": _batch,
    "swapped pair differs": _swapped,
    "not constant": _constant,
    "at the length limit": _both_sides,
    "related above unrelated": _related,
}


def _logits(reranker: Reranker, pairs: Sequence[Pair]) -> Embeddings:
    """(n, labels) numbers before the activation."""
    return reranker.predict(pairs, activation="identity").reshape(len(pairs), -1)
