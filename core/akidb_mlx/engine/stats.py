"""Counters of one engine, in one place; the server's metrics and `Embedder.info()` read them."""

from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Histogram", "Stats"]

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass
class Histogram:
    """How many requests took up to each bound; `counts` has one more entry, for what took longer."""

    bounds_s: tuple[float, ...] = _BOUNDS_S
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one request."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


@dataclass
class Stats:
    """What an engine has done since it was loaded. Written by one thread at a time, read by any."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    truncated_texts: int = 0
    failed_requests: int = 0
    cancelled_requests: int = 0
    refused_requests: int = 0
    batches: int = 0
    rows: int = 0
    """Rows computed; fewer than texts where equal texts were computed once."""
    row_tokens: int = 0
    companion_rows: int = 0
    """Rows that an earlier pass had computed beside what was asked of it."""
    padded_tokens: int = 0
    """Row tokens and their padding."""
    query_latency: Histogram = field(default_factory=Histogram)
    document_latency: Histogram = field(default_factory=Histogram)

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that was padding."""
        return 1 - self.row_tokens / self.padded_tokens if self.padded_tokens else 0.0

    def snapshot(self) -> dict[str, Any]:
        """All counters as plain values."""
        return {**asdict(self), "padding_share": round(self.padding_share, 4)}
