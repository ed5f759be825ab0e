"""What an embedder of any kind does on this machine: time to load, documents by length, queries, memory."""

import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import HybridEmbedder, expect_long_texts
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["WORDS", "Measured", "load_pyplot", "measure", "plot"]

# fmt: off
WORDS = [
    "harbour", "engine", "vector", "library", "garden", "snow", "orchestra", "river", "market", "lantern", "question",
    "answer", "memory", "paper", "copper", "window", "train", "apple", "novel", "bridge", "winter", "signal", "forest",
    "kitchen", "island", "mirror", "candle", "thunder", "meadow", "compass",
]
# fmt: on
_LENGTHS = (8, 32, 128, 256, 512, 2048)
_ROUNDS = 3
Measurable = EmbedderConfig | SparseConfig | MultiVectorConfig
"""A HybridConfig too, which is an EmbedderConfig: then all three forms are computed."""
_Face = Embedder | SparseEmbedder | MultiVectorEmbedder | HybridEmbedder


@dataclass
class Measured:
    """One run; times in seconds, medians of three rounds where there are several."""

    model: str
    device: str
    dtype: str
    dimension: int
    load_s: float = 0.0
    query_p50_ms: float = 0.0
    query_p95_ms: float = 0.0
    tokens_per_s: dict[int, float] = field(default_factory=dict)
    """Words of a text → tokens per second over a list of such texts."""
    mixed_tokens_per_s: float = 0.0
    """Over texts of 1 word to the longest, in random order."""
    padding_share: float = 0.0
    peak_mb: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def measure(config: Measurable, seconds: float = 2.0) -> Measured:
    """Load the model anew and measure; about `seconds` for each length."""
    began = time.perf_counter()
    with _load(config) as embedder:
        expect_long_texts(embedder)
        embedder.encode_query(["one text"])
        load_s = time.perf_counter() - began
        facts = embedder.info()
        result = Measured(
            facts["model_name"], f"{facts['device']} ({facts['backend']})", facts["dtype"], embedder.dimension, load_s
        )
        rng = random.Random(0)
        taken = [_timed(embedder, [_text(rng, 8)], query=True)[0] for _ in range(30)]
        result.query_p50_ms = 1000 * statistics.median(taken)
        result.query_p95_ms = 1000 * sorted(taken)[28]
        limit = embedder.max_seq_length or _LENGTHS[-1]
        lengths = [length for length in _LENGTHS if length <= limit]
        for length in lengths:
            result.tokens_per_s[length] = _rate(embedder, rng, [length], seconds)
        before = embedder.info()["stats"]
        result.mixed_tokens_per_s = _rate(embedder, rng, range(1, lengths[-1]), seconds)
        after = embedder.info()["stats"]
        padded, real = (after[name] - before[name] for name in ("padded_tokens", "row_tokens"))
        result.padding_share = round(1 - real / padded, 4)
        result.peak_mb = embedder.info()["memory"]["peak_bytes"] / 2**20
        return result


def _load(config: Measurable) -> "_Face":
    if isinstance(config, SparseConfig):
        return SparseEmbedder.load(config)
    if isinstance(config, MultiVectorConfig):
        return MultiVectorEmbedder.load(config)
    return HybridEmbedder.load(config.plain()) if isinstance(config, HybridConfig) else Embedder.load(config)


def load_pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files; ConfigError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError('a plot needs matplotlib: pip install "akidb-mlx[bench]"') from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot(result: Measured, file: Path) -> None:
    """Tokens per second by length of the texts."""
    figure, axes = load_pyplot().subplots(figsize=(7, 4))
    axes.plot(list(result.tokens_per_s), list(result.tokens_per_s.values()), "o-", label="texts of one length")
    axes.axhline(result.mixed_tokens_per_s, linestyle="--", label="texts of all lengths")
    axes.set(xscale="log", xlabel="words in a text", ylabel="tokens / s", title=f"{result.model}, {result.device}")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def _timed(embedder: _Face, texts: list[str], *, query: bool = False) -> tuple[float, int]:
    tokens = sum(embedder.count_tokens(texts))
    began = time.perf_counter()
    (embedder.encode_query if query else embedder.encode_document)(texts)
    return time.perf_counter() - began, tokens


def _rate(embedder: _Face, rng: random.Random, lengths: "list[int] | range", seconds: float) -> float:
    """Median tokens per second over three lists, each sized to take a third of `seconds`."""

    def texts(count: int) -> list[str]:
        return [_text(rng, rng.choice(lengths)) for _ in range(count)]

    count = 8
    taken, tokens = _timed(embedder, texts(count))
    while taken < seconds / 20 and count < 2**16:
        count *= 4
        taken, tokens = _timed(embedder, texts(count))
    count = max(1, int(count * seconds / _ROUNDS / taken))
    rates = []
    for _ in range(_ROUNDS):
        taken, tokens = _timed(embedder, texts(count))
        rates.append(tokens / taken)
    return statistics.median(rates)
