"""Ours beside what a user would pick instead, on one model and one machine, in turn. Prints one table.

    python benchmarks/peers.py MODEL_FOLDER [--reference-python PY] [--compiled] [--onnx-python PY]
                               [--openvino-python PY] [--candding-python PY] [--mlx-embeddings-python PY]
                               [--slow-documents 16] [--documents 512] [--rounds 5] [--dtype float16]
                               [--batch-sizes 32,128,256]

Each peer runs in its own process, with the Python of its own environment; a peer without a Python is left out
(peer_workers.py has them). OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are unset in all of them. Rounds alternate between
the peers, so that a machine that slows down does so for all. Figures are medians with the least and the greatest;
ratios are taken round by round. Tokens are counted after truncation, without padding, by our tokenizer.
Texts: corpus_text.py.

onnxruntime and OpenVINO read MODEL_FOLDER/onnx/model.onnx (and model_int8.onnx), as make_onnx.py writes them.
Rerankers beside their reference: rerank.py; sparse and multi-vector models: rows.py.

`--slow-documents` is for mlx-embeddings on Linux's CPU, some 50 times slower than the others: it gets that many of
the texts, of all lengths, one or four at a time. Cold starts are those of fresh processes, from their start to the
first vector; through an adapter, the time that its framework itself takes to import is told apart.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peer_workers import ADAPTERS

HERE = Path(__file__).resolve()
WORKERS_FILE = HERE.with_name("peer_workers.py")
# They would decide which of its kernels OpenBLAS takes.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


class Peer:
    """A worker process."""

    def __init__(self, name: str, python: str, folder: str, dtype: str | None, script: Path = WORKERS_FILE) -> None:
        self.name = name
        inherited = {key: value for key, value in os.environ.items() if key not in UNSET}
        environment = {**inherited, "PEER_STARTED": str(time.time()), "HF_HUB_OFFLINE": "1"}
        command = [python, str(script), "--worker", name, folder, *(["--dtype", dtype] if dtype else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent
        )
        self.first = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"{self.name} ended: see its message above")

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Measured:
    """A peer, its texts and what it gave."""

    peer: Peer
    texts: list[str]
    places: list[int]
    """Where its texts are among all."""
    tokens: int
    batch_size: int = 0
    speed: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    rows: Any = None
    facts: dict[str, Any] = field(default_factory=dict)


def start(name: str, python: str, args: argparse.Namespace, texts: list[str], counts: list[int]) -> Measured:
    """Start a peer and choose its texts: all of them, or for a slow one some of each length."""
    few = args.slow_documents if name == "mlx-embeddings" else 0
    places = list(range(len(texts)))
    if few and few < len(texts):
        by_length = sorted(places, key=lambda place: counts[place])
        places = sorted(by_length[len(texts) * (2 * number + 1) // (2 * few)] for number in range(few))
    tokens = sum(counts[place] for place in places)
    return Measured(Peer(name, python, args.folder, args.dtype), [texts[place] for place in places], places, tokens)


def embed(measured: Measured, to: Path, size: int, texts: list[str] | None = None) -> float:
    """Seconds that its documents take."""
    asked = {"texts": texts or measured.texts, "batch_size": size, "to": str(to)}
    return measured.peer.ask(what="documents", **asked)["seconds"]


def warm_up(measured: Measured, to: Path, sizes: list[int], *, slow: bool) -> None:
    """Find its best batch size; ours batches by tokens."""
    texts = measured.texts
    if measured.peer.name == "ours":
        sizes = [0, 0]
    elif slow:  # larger ones would be mostly padding among so few texts
        sizes, texts = [1, 4], texts[::4]
    tried = {size: embed(measured, to, size, texts) for size in sizes}
    measured.batch_size = min(tried, key=lambda size: tried[size])


def run(args: argparse.Namespace) -> None:
    """Start the peers, alternate, print."""
    sys.path.insert(0, str(HERE.parent))
    import corpus_text
    import numpy as np

    from akidb_mlx.checkpoint.facts import read_checkpoint
    from akidb_mlx.pipeline.tokenizer import Tokenizer

    args.folder = str(Path(args.folder).resolve())
    texts = corpus_text.documents(args.documents, args.sentences)
    queries = corpus_text.queries(args.queries)
    checkpoint = read_checkpoint(Path(args.folder))
    tokenizer = Tokenizer(checkpoint.tokenizer_file, checkpoint.max_seq_length)
    counts = [len(ids) for ids in tokenizer.tokenize(texts).token_ids]
    int8 = (Path(args.folder) / "onnx" / "model_int8.onnx").exists()
    pythons = {
        "ours": sys.executable,
        "sentence-transformers": args.reference_python,
        "sentence-transformers, compiled": args.reference_python if args.compiled else None,
        "onnxruntime": args.onnx_python,
        "onnxruntime, int8": args.onnx_python if int8 else None,
        "OpenVINO": args.openvino_python,
        "OpenVINO, float32": args.openvino_python,
        "candding": args.candding_python,
        "mlx-embeddings": args.mlx_embeddings_python,
    }
    peers = {name: start(name, python, args, texts, counts) for name, python in pythons.items() if python}
    cold = {name: [measured.peer.first] for name, measured in peers.items()}
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        for measured in peers.values():
            warm_up(measured, file, sizes, slow=len(measured.texts) < len(texts))
        load: list[float] = []
        for _ in range(args.rounds):
            for measured in peers.values():
                load.append(os.getloadavg()[0])
                measured.speed.append(measured.tokens / embed(measured, file, measured.batch_size))
                measured.rows = np.load(file)
            for measured in peers.values():
                measured.latency += measured.peer.ask(what="queries", texts=queries)["taken"]
    for measured in peers.values():
        measured.facts = measured.peer.ask(what="facts")
        measured.peer.end()
    for number in range(args.cold_rounds):
        for name in peers if number else ():  # the first time was above
            peer = Peer(name, pythons[name], args.folder, args.dtype)
            cold[name].append(peer.first)
            peer.end()
        for name, (framework, _) in ADAPTERS.items():
            if find_spec(framework):
                peer = Peer(name, sys.executable, args.folder, args.dtype)
                cold.setdefault(name, []).append(peer.first)
                peer.end()
    print(f"load {statistics.median(load):.1f} ({min(load):.1f}–{max(load):.1f})", end=", ")
    show(args, peers, counts, cold)


def spread(values: list[float], digits: int = 0) -> str:
    """Median (least–greatest)."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def show(
    args: argparse.Namespace, peers: dict[str, Measured], counts: list[int], cold: dict[str, list[dict[str, float]]]
) -> None:
    """Print the table."""
    import numpy as np

    ours = peers["ours"]
    print(f"{Path(args.folder).name}, {args.dtype or 'float32'}: {len(counts)} texts, {sum(counts)} tokens, ", end="")
    print(f"longest {max(counts)};\n{os.cpu_count()} cores, {platform.machine()}, Python", end=" ")
    print(f"{platform.python_version()}, {_versions(peers)}\npadding share of ours {ours.facts['padding_share']}\n")
    print(f"| | {' | '.join(peers)} |\n|---|{'---|' * len(peers)}")

    def line(what: str, shown: Callable[[Measured], str]) -> None:
        print(f"| {what} | {' | '.join(map(shown, peers.values()))} |")

    def start_of(what: str, seconds: list[float]) -> None:
        """A cold start of ours and its ratio to each peer's, round by round."""
        line(what + ", s", lambda m: spread(seconds, 2) if m is ours else "")
        ratios = {name: [a / b["cold_s"] for a, b in zip(seconds, cold[name], strict=True)] for name in peers}
        line("… ours / theirs", lambda m: "" if m is ours else spread(ratios[m.peer.name], 2))

    def p(m: Measured, percent: int) -> float:
        return float(np.percentile(m.latency, percent))

    if any(len(m.texts) < len(counts) for m in peers.values()):
        line("texts (tokens)", lambda m: f"{len(m.texts)} ({m.tokens:,})")
    line("computes in", lambda m: str(m.facts.get("precision", m.facts.get("dtype", args.dtype or "float32"))))
    line("BLAS that is loaded", lambda m: ", ".join(m.facts["blas"]))
    if any("graphs" in m.facts for m in peers.values()):
        line("graphs compiled", lambda m: str(m.facts.get("graphs", "")))
    line("batch size", lambda m: "by tokens" if m is ours else str(m.batch_size))
    line("tokens/s", lambda m: spread(m.speed))
    line("documents/s", lambda m: spread([value * len(m.texts) / m.tokens for value in m.speed], 1))
    line("ours / theirs", lambda m: spread([a / b for a, b in zip(ours.speed, m.speed, strict=True)], 2))
    line("query P50, ms", lambda m: f"{1000 * p(m, 50):.2f}")
    line("query P95, ms", lambda m: f"{1000 * p(m, 95):.2f}")
    line("ours / theirs, P50", lambda m: f"{p(ours, 50) / p(m, 50):.2f}")
    line("cold start to first vector, s", lambda m: spread([one["cold_s"] for one in cold[m.peer.name]], 2))
    line("ours / theirs", lambda m: spread(_ratios("cold_s", cold["ours"], cold[m.peer.name]), 2))
    line("peak memory then, MB", lambda m: spread([one["peak_mb"] for one in cold[m.peer.name]]))
    line("ours / theirs", lambda m: spread(_ratios("peak_mb", cold["ours"], cold[m.peer.name]), 2))
    line("largest difference to ours", lambda m: f"{np.abs(m.rows - ours.rows[m.places]).max():.1e}")
    for name in ADAPTERS:
        if name in cold:
            start_of(f"cold start through {name}", [one["cold_s"] for one in cold[name]])
            own = spread([one["import_s"] for one in cold[name]], 2)
            line("… of it the framework's own import, s", lambda m, own=own: own if m is ours else "")
            start_of("… without that", [one["cold_s"] - one["import_s"] for one in cold[name]])


def _ratios(what: str, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> list[float]:
    return [a[what] / b[what] for a, b in zip(ours, theirs, strict=True)]


def _versions(peers: dict[str, Measured]) -> str:
    names = ("mlx", "torch", "sentence-transformers", "mlx-embeddings", "onnxruntime", "openvino", "candding")
    known = {f"{name} {m.facts[name]}": None for m in peers.values() for name in names if name in m.facts}
    return ", ".join(known)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--reference-python")
    parser.add_argument("--compiled", action="store_true", help="sentence-transformers also with torch.compile")
    parser.add_argument("--onnx-python")
    parser.add_argument("--openvino-python")
    parser.add_argument("--candding-python")
    parser.add_argument("--mlx-embeddings-python")
    parser.add_argument("--dtype")
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--slow-documents", type=int, default=0, help="for mlx-embeddings; 0: all (default)")
    parser.add_argument("--sentences", type=int, default=6)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", default="32,128,256")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
