"""Reranker: pairs of texts in, scores out; how well each document answers a query."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from akidb_mlx.config.options import Activation
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.pipeline.call import Usage
from akidb_mlx.vectors import Embeddings

__all__ = ["Pair", "Ranked", "Reranker", "RerankerProtocol"]

Pair = tuple[str, str] | list[str]
"""A query and a text."""


class Ranked(NamedTuple):
    """One document of a ranking."""

    corpus_id: int
    """Its place in what was given."""
    score: float


@runtime_checkable
class RerankerProtocol(Protocol):
    """What the adapters need of a reranker; `Reranker` and `testing.FakeReranker` satisfy it."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def predict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102
    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[Ranked]: ...  # noqa: D102
    async def apredict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102
    async def arank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[Ranked]: ...  # noqa: D102


class Reranker:
    """A loaded model. Make one with `Reranker.load`; rerankers with equal settings share one loaded model."""

    config: RerankerConfig

    @classmethod
    def load(cls, model: "str | PathLike[str] | RerankerConfig | None" = None, **fields: Any) -> Self:
        """Load a folder, `package:NAME`, a Hub id or a RerankerConfig; nothing takes what the config says."""
        raise NotImplementedError

    @property
    def num_labels(self) -> int:
        """Scores of a pair."""
        raise NotImplementedError

    @property
    def activation(self) -> str:
        """What makes scores of the model's numbers: "sigmoid", "identity", "tanh" or "softmax"."""
        raise NotImplementedError

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a pair that count, special tokens, prompt and template included."""
        raise NotImplementedError

    @property
    def healthy(self) -> bool:
        """Whether the device threads are able to answer."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the scores (hex); equal on every machine. Computed on first use."""
        raise NotImplementedError

    def predict(
        self,
        pairs: Sequence[Pair],
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """Score pairs (query, text): (n,) float32, or (n, labels) where the model has several; in their order."""
        raise NotImplementedError

    async def apredict(
        self,
        pairs: Sequence[Pair],
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """`predict` without blocking the event loop."""
        raise NotImplementedError

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> list[Ranked]:
        """Documents by their score, best first, equal ones in the given order; at most `top_k`."""
        raise NotImplementedError

    async def arank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> list[Ranked]:
        """`rank` without blocking the event loop."""
        raise NotImplementedError

    async def apredict_with_usage(
        self,
        pairs: Sequence[Pair],
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        on_overlong: Literal["truncate", "error"] | None = None,
        max_tokens: int | None = None,
    ) -> tuple[Embeddings, Usage]:
        """The scores and what they used, for a server; more than `max_tokens` in all is an InputError."""
        raise NotImplementedError

    def count_tokens(self, pairs: Sequence[Pair], prompt: str = "") -> list[int]:
        """Tokens of each pair, after truncation: what the model reads."""
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        """The recipe with the source of each fact, the device, memory and counters; plain values."""
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        """The loaded model's counters and what waits for it; plain values, at once."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the model back; the last reranker that uses it frees its memory. Closing twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
