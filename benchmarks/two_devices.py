"""Several devices of one host, and what `embed` and `serve` reach beside `encode`. A line of JSON for each part.

    python benchmarks/two_devices.py FOLDER [ray] [workers] [embed] [--dtype float16] [--devices 2] [--seconds 20]

`ray`: embed by Ray on one actor and on as many as `--devices` (each reserves a GPU, where Ray sees any).
`workers`: `serve --workers 1` and `--workers N`, 64 clients, base64, one after the other twice.
`embed`: rows a second of `encode_document` on a list, of `akidb_mlx.corpus.embed_corpus` from JSON Lines and from
Parquet, and of the server with 64 clients, in turn, with one process that loads the model once.

Each takes about a minute. Without a GPU the same runs on the CPU's cores, where it shows that it works, no more. Texts:
real sentences (corpus_text.py), up to 24 joined. FOLDER: a model (make_checkpoint.py makes one of a real shape).
"""

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import corpus_text
import numpy as np

CLIENTS = 64
TEXTS_OF_A_REQUEST = 8
_SERVE = [sys.executable, "-m", "akidb_mlx", "serve", "--port", "0"]


def texts(count: int, seed: int) -> list[str]:
    """Documents, each with its number, so that no two are equal."""
    pool = corpus_text.documents(min(count, 20_000), 24, seed)
    return [f"{number}: {pool[number % len(pool)]}" for number in range(count)]


def tell(part: str, **figures: Any) -> None:
    """One line."""
    print(json.dumps({"part": part, "load": os.getloadavg()[0], **figures}), flush=True)


def some_seconds(rate: float, seconds: float) -> int:
    """Texts for so many seconds at so many a second."""
    return max(200, int(rate * seconds))


def write_inputs(folder: Path, rows: list[str]) -> dict[str, Path]:
    """The same rows in two formats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = {"jsonl": folder / "in.jsonl", "parquet": folder / "in.parquet"}
    with files["jsonl"].open("w") as stream:
        stream.writelines(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(rows))
    pq.write_table(pa.table({"id": range(len(rows)), "text": rows}), files["parquet"])
    return files


# ── Ray ──────────────────────────────────────────────────────────────────────────────────────────────────


def by_ray(args: argparse.Namespace, folder: Path) -> None:
    """Rows a second with one actor and with several."""
    import ray

    from akidb_mlx import EmbedderConfig
    from akidb_mlx.corpus import embed_corpus
    from akidb_mlx.ray import RayEncoder

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    core = os.pathsep.join(path for path in sys.path if path)
    options = {"runtime_env": {"env_vars": {"PYTHONPATH": core}}}
    ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False, **options)
    config = EmbedderConfig(model=args.folder, **({"dtype": args.dtype} if args.dtype else {}))
    warm, rows = write_inputs(folder, texts(args.warm, 1))["parquet"], None
    figures: dict[int, list[float]] = {}
    for actors in (1, args.devices):
        with RayEncoder(config, actors=actors) as encoder:
            summary = embed_corpus([warm], folder / "warm.parquet", encoder, overwrite=True)
            if rows is None:
                count = some_seconds(summary.rows / summary.seconds, args.seconds * 0.6)
                (folder / "more").mkdir()
                rows = write_inputs(folder / "more", texts(count, 2))["parquet"]
            for _ in range(2):
                summary = embed_corpus([rows], folder / "out.parquet", encoder, overwrite=True)
                figures.setdefault(actors, []).append(summary.rows / summary.seconds)
    one, several = (max(figures[actors]) for actors in (1, args.devices))
    tell(
        "ray",
        gpus=ray.cluster_resources().get("GPU", 0),
        rows_per_s={str(actors): [round(rate, 1) for rate in rates] for actors, rates in figures.items()},
        times_one=round(several / one, 3),
        of_ideal=round(several / one / args.devices, 3),
    )
    ray.shutdown()


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def served(args: argparse.Namespace, workers: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A server's port, once all its workers serve, and its log."""
    dtype = ["--dtype", args.dtype] if args.dtype else []
    command = [*_SERVE, "--model", f"m={args.folder}", "--workers", str(workers), *dtype]
    log: list[dict[str, Any]] = []

    def read(stream: Any) -> None:
        for line in stream:
            if line.startswith("{"):
                log.append(json.loads(line))

    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        threading.Thread(target=read, args=(process.stderr,), daemon=True).start()
        while sum(one["message"] == "model loaded" for one in log) < workers:
            assert process.poll() is None, log
            time.sleep(0.05)
        time.sleep(0.5)
        try:
            yield int(next(one["url"] for one in log if one["message"] == "listening").rpartition(":")[2]), log
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


async def _client(port: int, pool: list[str], until: float, counts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until:
        chosen = [f"{rng.random():.9f} {rng.choice(pool)}" for _ in range(TEXTS_OF_A_REQUEST)]
        asked = {"input": chosen, "model": "m", "encoding_format": "base64", "input_type": "document"}
        body = json.dumps(asked).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
        given = json.loads(await reader.readexactly(size))
        assert b" 200 " in answer, given
        np.frombuffer(base64.b64decode(given["data"][0]["embedding"]), "<f4")
        if time.monotonic() < until:
            counts.append(len(chosen))
    writer.close()


def _clients(port: int, seconds: float, seed: int, clients: int) -> None:
    """In a process of its own: print the texts that were answered."""

    async def run() -> None:
        counts: list[int] = []
        pool, until = texts(4000, seed), time.monotonic() + seconds
        await asyncio.gather(*(_client(port, pool, until, counts, 1000 * seed + one) for one in range(clients)))
        print(sum(counts))

    asyncio.run(run())


def asked(port: int, seconds: float, seed: int) -> float:
    """Texts a second that all clients were answered; four processes have them, so that none of these is the bound."""
    command = [sys.executable, __file__, "--clients", str(port), str(seconds)]
    started = [
        subprocess.Popen([*command, str(seed + place), str(CLIENTS // 4)], stdout=subprocess.PIPE, text=True)
        for place in range(4)
    ]
    return sum(int(process.communicate()[0]) for process in started) / seconds


def by_workers(args: argparse.Namespace, folder: Path) -> None:
    """Texts a second of one worker and of several."""
    figures: dict[int, list[float]] = {}
    for number in range(2):
        for workers in (1, args.devices):
            with served(args, workers) as (port, _):
                asked(port, 3, 90 + 10 * number)
                figures.setdefault(workers, []).append(asked(port, args.seconds / 3, 10 * number))
    one, several = (max(figures[workers]) for workers in (1, args.devices))
    tell(
        "workers",
        clients=CLIENTS,
        texts_per_s={str(workers): [round(rate, 1) for rate in rates] for workers, rates in figures.items()},
        times_one=round(several / one, 3),
    )


# ── embed and serve beside encode ────────────────────────────────────────────────────────────────────────


def by_embed(args: argparse.Namespace, folder: Path) -> None:
    """Rows a second of `encode_document`, `embed` and the server on one device."""
    from akidb_mlx import Embedder
    from akidb_mlx.corpus import embed_corpus

    figures: dict[str, list[float]] = {"encode": [], "jsonl": [], "parquet": [], "serve": []}
    with Embedder.load(args.folder, **({"dtype": args.dtype} if args.dtype else {})) as embedder:
        embedder.encode_document(texts(args.warm, 1))
        began = time.perf_counter()
        embedder.encode_document(texts(args.warm, 2))
        count = some_seconds(args.warm / (time.perf_counter() - began), args.seconds / 5)
        rows = texts(count, 3)
        files = write_inputs(folder, rows)
        tokens = embedder.stats()["tokens"]
        for number in range(3):
            began = time.perf_counter()
            embedder.encode_document(rows)
            figures["encode"].append(count / (time.perf_counter() - began))
            if not number:
                tokens = embedder.stats()["tokens"] - tokens
            for suffix, file in files.items():
                summary = embed_corpus([file], folder / f"{suffix}.out.parquet", embedder, overwrite=True)
                figures[suffix].append(summary.rows / summary.seconds)
    with served(args, 1) as (port, _):
        asked(port, 4, 500)
        for number in range(2):
            figures["serve"].append(asked(port, args.seconds / 4, 600 + 10 * number))
    base = statistics.median(figures["encode"])
    tell(
        "embed",
        rows=count,
        tokens=tokens,
        rows_per_s={name: [round(rate, 1) for rate in rates] for name, rates in figures.items()},
        beside_encode={name: round(statistics.median(rates) / base, 3) for name, rates in figures.items()},
    )


PARTS = {"ray": by_ray, "workers": by_workers, "embed": by_embed}


def main() -> None:
    """Parse and measure."""
    if sys.argv[1:2] == ["--clients"]:
        port, seconds, seed, clients = sys.argv[2:]
        _clients(int(port), float(seconds), int(seed), int(clients))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--dtype")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm", type=int, default=4000, help="texts of a warm-up")
    args = parser.parse_args()
    for name in args.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](args, Path(folder))


if __name__ == "__main__":
    main()
