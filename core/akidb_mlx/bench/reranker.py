"""What a reranker does on this machine: time to load, a question with few and with many candidates, memory."""

import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from akidb_mlx.bench.embedder import WORDS
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.hybrid_embedder import expect_long_texts
from akidb_mlx.reranker import Pair, Reranker

__all__ = ["MeasuredReranker", "measure_reranker"]

_CANDIDATES = (10, 100)
_QUERY_WORDS = 8
# Words of a candidate: passages as retrievers give them.
_WORDS = (40, 160)
_LEAST_ROUNDS = 3


@dataclass
class MeasuredReranker:
    """One run."""

    model: str
    device: str
    dtype: str
    load_s: float = 0.0
    pairs_per_s: dict[int, float] = field(default_factory=dict)
    """Candidates of a question → pairs per second, the median."""
    rank_ms: dict[int, float] = field(default_factory=dict)
    """Candidates of a question → milliseconds, the median."""
    tokens_per_pair: float = 0.0
    peak_mb: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def measure_reranker(config: RerankerConfig, seconds: float = 2.0) -> MeasuredReranker:
    """Load the model anew and measure; about `seconds` for each number of candidates."""
    began = time.perf_counter()
    with Reranker.load(config) as reranker:
        expect_long_texts(reranker)
        reranker.predict([("one query", "one text")])
        load_s = time.perf_counter() - began
        facts = reranker.info()
        result = MeasuredReranker(
            facts["model_name"], f"{facts['device']} ({facts['backend']})", facts["dtype"], load_s
        )
        rng = random.Random(0)
        for count in _CANDIDATES:
            taken = _median_s(reranker, rng, count, seconds)
            result.rank_ms[count], result.pairs_per_s[count] = 1000 * taken, count / taken
        pairs = _pairs(rng, _CANDIDATES[-1])
        result.tokens_per_pair = sum(reranker.count_tokens(pairs)) / len(pairs)
        result.peak_mb = (reranker.info().get("memory") or {}).get("peak_bytes", 0) / 2**20
        return result


def _median_s(reranker: Reranker, rng: random.Random, count: int, seconds: float) -> float:
    """Seconds that a question with this many candidates takes; new ones each time."""
    reranker.predict(_pairs(rng, count))
    taken: list[float] = []
    while len(taken) < _LEAST_ROUNDS or sum(taken) < seconds:
        pairs = _pairs(rng, count)
        began = time.perf_counter()
        reranker.predict(pairs)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _pairs(rng: random.Random, count: int) -> list[Pair]:
    query = " ".join(rng.choices(WORDS, k=_QUERY_WORDS))
    return [(query, " ".join(rng.choices(WORDS, k=rng.randint(*_WORDS)))) for _ in range(count)]
