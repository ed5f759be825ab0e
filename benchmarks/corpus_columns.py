"""`embed` on a million short rows with twelve kept columns: seconds, memory and bytes, without a model's own time.

    python benchmarks/corpus_columns.py [--rows 1000000] [--inputs jsonl parquet] [--dimension 64] [--beside FOLDER]

A stand-in gives random rows of unit length, so that what is measured is reading, keeping and writing. `--beside` takes
another checkout and runs both in turn, each in a process of its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FACTS = (
    "model_name revision pooling normalize prompts query_prompt document_prompt max_seq_length dimension similarity "
    "quantization exact_reference"
)


class Standin:
    """An encoder whose rows are random."""

    fingerprint = "f"

    def __init__(self, dimension: int) -> None:
        """Rows of so many numbers."""
        from akidb_mlx import EmbedderConfig

        self.config, self.dimension = EmbedderConfig(), dimension
        self._random = np.random.default_rng(0)

    def info(self) -> dict[str, Any]:
        """An embedder's facts, without values."""
        return dict.fromkeys(FACTS.split()) | {"dimension": self.dimension}

    def stats(self) -> dict[str, int]:
        """Nothing is counted."""
        return {"tokens": 0, "truncated_texts": 0}

    def encode_stream(self, texts: Any, chunk_size: int = 256, *, side: Any = None, on_error: Any = None) -> Any:
        """Rows of unit length."""
        waiting = 0
        for _ in texts:
            waiting += 1
            if waiting == chunk_size:
                yield self._rows(waiting)
                waiting = 0
        if waiting:
            yield self._rows(waiting)

    def _rows(self, count: int) -> Any:
        rows = self._random.standard_normal((count, self.dimension), np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def record(i: int) -> dict[str, Any]:
    """A row: id, text and twelve columns of the usual types."""
    return {
        "id": i,
        "text": f"row {i} says little",
        "title": f"Title {i % 1000}",
        "url": f"https://example.org/{i}",
        "lang": ("en", "de", "fr")[i % 3],
        "year": 1990 + i % 30,
        "score": i % 997 / 7,
        "likes": i * 31 % 100_000,
        "open": i % 2 == 0,
        "section": f"s{i % 40}",
        "author": {"name": f"Author {i % 500}", "age": i % 80},
        "tags": [f"t{i % 9}", f"t{i % 11}"],
        "note": None if i % 5 else f"note {i}",
        "hash": i * 2654435761 % 2**62,
    }


def write_inputs(folder: Path, rows: int) -> None:
    """The same rows as JSON Lines and as Parquet, in two shards each."""
    half = rows // 2
    for shard, numbers in enumerate((range(half), range(half, rows))):
        records = [record(i) for i in numbers]
        with (folder / f"{shard}.jsonl").open("w") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in records)
        pq.write_table(pa.Table.from_pylist(records), folder / f"{shard}.parquet")


def run_once(folder: Path, suffix: str, dimension: int, out: Path) -> None:
    """In the measured process: embed, and print what it took."""
    from akidb_mlx.corpus import embed_corpus

    began, cpu = time.perf_counter(), time.process_time()
    summary = embed_corpus([folder / f"0.{suffix}", folder / f"1.{suffix}"], out, Standin(dimension))  # type: ignore[arg-type]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    told = {
        "rows": summary.rows,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "peak_mib": round(peak),
        "mb_on_disk": round(out.stat().st_size / 1e6, 1),
    }
    sys.stdout.write(json.dumps(told) + "\n")


def main() -> None:
    """Run each input's turn in a new process, here and in the checkout beside."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--inputs", nargs="+", default=["jsonl", "parquet"])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--folder", type=Path, help="where the inputs are, or will be, written")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_once(args.folder, args.one[0], args.dimension, Path(args.one[1]))
        return
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "1.parquet").exists():
            folder.mkdir(exist_ok=True)
            write_inputs(folder, args.rows)
        for suffix in args.inputs:
            told: dict[str, list[dict[str, Any]]] = {}
            for _ in range(args.rounds):
                for checkout in (args.beside, here) if args.beside else (here,):
                    out = Path(temporary) / "out.parquet"
                    command = [sys.executable, __file__, "--folder", folder, "--dimension", str(args.dimension)]
                    paths = os.environ | {"PYTHONPATH": f"{checkout}/core:{checkout}"}
                    done = subprocess.run(
                        [*command, "--one", suffix, out], env=paths, check=True, capture_output=True, text=True
                    )
                    told.setdefault(str(checkout), []).append(json.loads(done.stdout.splitlines()[-1]))
                    out.unlink()
            for checkout, runs in told.items():
                middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
                sys.stdout.write(f"{suffix:8} {checkout}: {middle}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
