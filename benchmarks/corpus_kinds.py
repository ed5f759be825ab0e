"""`akidb-mlx embed --kind …` killed ten times, beside an undisturbed run: equal rows, memory, bytes on the disk.

    python benchmarks/corpus_kinds.py [sparse] [multi] [hybrid] [--rows 100000] [--kills 10] [--output-dtype float32]

The checkpoints are the tests' tiny ones. Memory is the peak of each process that wrote, in turn.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

REFERENCE = Path(__file__).parents[1] / "tests" / "reference"
COMMAND = """
import resource, sys
from akidb_mlx.corpus import embedding
embedding._PART_BYTES = {part} << 20
from akidb_mlx.cli import main
code = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.stderr.write(f"peak {{peak / (2**20 if sys.platform == 'darwin' else 2**10):.0f}} MiB\\n")
sys.exit(code)
"""


def model_of(kind: str, folder: Path) -> Path:
    """A tiny checkpoint of this kind."""
    if kind != "hybrid":
        return REFERENCE / ("sparse/bert-max" if kind == "sparse" else "multi_vector/pylate")
    model = shutil.copytree(REFERENCE / "xlm-roberta-cls", folder / "hybrid")
    for name in ("sparse_linear", "colbert_linear"):
        shutil.copy(REFERENCE / "hybrid" / f"{name}.safetensors", model)
    return model


def started(out: Path, source: Path, kind: str, model: Path, dtype: str, part: int) -> "subprocess.Popen[str]":
    """The command, on its way."""
    options = ["--kind", kind, "--model", model, "--output-dtype", dtype, "--no-progress"]
    command = [sys.executable, "-c", COMMAND.format(part=part), "embed", source, "--to", out, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(run: "subprocess.Popen[str]") -> str:
    """What the command said, with its peak of memory."""
    out, err = run.communicate()
    if run.returncode:
        raise SystemExit(err)
    return f"{out.strip()}; {err.strip().splitlines()[-1]}"


def measure(kind: str, rows: int, kills: int, dtype: str, folder: Path) -> None:
    """One kind: whole, smaller, and killed."""
    model, source = model_of(kind, folder), folder / "in.jsonl"
    for name, count in (("small", rows // 10), ("whole", rows)):
        with source.open("w") as stream:
            for i in range(count):
                stream.write(json.dumps({"id": i, "text": f"row {i}: {'river stone lantern ' * (i % 5)}"}) + "\n")
        told = finished(started(folder / f"{kind}-{name}.parquet", source, kind, model, dtype, 16))
        sys.stdout.write(f"{kind} {name}: {told}\n")
    out, moments, hits, began = folder / f"{kind}-killed.parquet", random.Random(3), 0, time.monotonic()
    while hits < kills and not out.exists():
        run = started(out, source, kind, model, dtype, 2)
        parts = len(list(Path(f"{out}.parts").glob("*.arrow")))
        wanted = parts + moments.randrange(1, 3)
        while run.poll() is None and len(list(Path(f"{out}.parts").glob("*.arrow"))) < wanted:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.2))
        run.kill()
        run.communicate()
        hits += run.returncode != 0
    told = finished(started(out, source, kind, model, dtype, 2))
    sys.stdout.write(f"{kind} killed {hits} times, {time.monotonic() - began:.0f} s in all: {told}\n")
    sys.stdout.write(f"{kind}: {compared(folder / f'{kind}-whole.parquet', out)}\n")
    sys.stdout.flush()


def compared(a: Path, b: Path) -> str:
    """Whether ids, kept columns and places are the same, and how far the numbers differ."""
    largest, rows = 0.0, 0
    files = [pq.ParquetFile(path).iter_batches(512) for path in (a, b)]
    for first, second in zip(*files, strict=True):
        for name in first.schema.names:
            columns: list[Any] = [batch.column(name) for batch in (first, second)]
            if name in ("id", "text"):
                if not columns[0].equals(columns[1]):
                    return f"{name} differs behind row {rows}"
                continue
            for left, right in zip(*map(leaves, columns), strict=True):
                if len(left) != len(right):
                    return f"{name} has another number of entries behind row {rows}"
                largest = max(largest, float(np.abs(left.astype(float) - right).max(initial=0.0)))
        rows += len(first)
    return f"{rows:,} rows equal: ids, text, entries; largest difference of a number {largest:.1e}"


def leaves(column: Any) -> list[Any]:
    """A column's numbers, and the lengths of its lists."""
    if hasattr(column.type, "fields") and column.type.num_fields and not hasattr(column.type, "value_type"):
        return [leaf for field in column.flatten() for leaf in leaves(field)]
    if hasattr(column.type, "value_type"):
        return [column.value_lengths().to_numpy(zero_copy_only=False), *leaves(column.flatten())]
    return [column.to_numpy(zero_copy_only=False)]


def main() -> None:
    """Each kind that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["sparse", "multi", "hybrid"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--output-dtype", default="float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kinds:
            measure(kind, args.rows, args.kills, args.output_dtype, Path(folder))


if __name__ == "__main__":
    main()
