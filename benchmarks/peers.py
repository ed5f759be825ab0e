"""Ours, sentence-transformers and mlx-embeddings on one model, one machine, in turn. Prints one table.

    python benchmarks/peers.py MODEL_FOLDER [--reference-python PY] [--mlx-embeddings-python PY]
                               [--documents 512] [--rounds 5] [--dtype float16] [--batch-sizes 32,128,256]

Each peer runs in its own process, with the Python of its own environment; a peer without a Python is left out.
Rounds alternate between the peers, so that a machine that slows down does so for all. Figures are medians
with the least and the greatest; ratios are taken round by round. Tokens are counted after truncation, without
padding, by our tokenizer. Texts: benchmarks/corpus_text.py.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


# ── one process a peer ───────────────────────────────────────────────────────────────────────────────────


def ours(folder: str, dtype: str | None) -> tuple[Callable[..., Any], Callable[[list[str]], Any], Callable[[], dict]]:
    """Embed documents, embed a query, tell versions."""
    from importlib.metadata import version

    import akidb_mlx

    embedder = akidb_mlx.Embedder.load(folder, **({"dtype": dtype} if dtype else {}))

    def facts() -> dict[str, Any]:
        return {"mlx": version("mlx"), **embedder.info()["stats"], **embedder.info()["memory"]}

    return (
        lambda texts, batch_size: embedder.encode_document(texts),
        lambda texts: embedder.encode_query(texts),
        lambda: {"tokens": 0, **facts()},
    )


def sentence_transformers(folder: str, dtype: str | None) -> tuple[Any, Any, Any]:
    """The reference, on a GPU where torch sees one."""
    import sentence_transformers as st
    import torch

    options = {"model_kwargs": {"torch_dtype": getattr(torch, dtype or "float32")}}
    model = st.SentenceTransformer(folder, **options)
    sides = {"convert_to_numpy": True, "show_progress_bar": False}
    return (
        lambda texts, batch_size: model.encode_document(texts, batch_size=batch_size, **sides),
        lambda texts: model.encode_query(texts, **sides),
        lambda: {"sentence-transformers": st.__version__, "torch": torch.__version__},
    )


def mlx_embeddings(folder: str, dtype: str | None) -> tuple[Any, Any, Any]:
    """mlx-embeddings as its documentation shows: sorted by length here, as the others do by themselves."""
    from importlib.metadata import version

    import numpy as np
    from mlx_embeddings.utils import load

    model, tokenizer = load(folder)

    def encode(texts: list[str], batch_size: int = 32) -> Any:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for first in range(0, len(order), batch_size):
            part = order[first : first + batch_size]
            inputs = tokenizer._tokenizer if hasattr(tokenizer, "_tokenizer") else tokenizer
            batch = inputs([texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="np")
            import mlx.core as mx

            output = model(mx.array(batch["input_ids"]), attention_mask=mx.array(batch["attention_mask"]))
            for i, row in zip(part, np.array(output.text_embeds.astype(mx.float32)), strict=True):
                rows[i] = row
        return np.stack(rows)

    return encode, lambda texts: encode(texts), lambda: {"mlx-embeddings": version("mlx-embeddings")}


WORKERS = {"ours": ours, "sentence-transformers": sentence_transformers, "mlx-embeddings": mlx_embeddings}


def work(name: str, folder: str, dtype: str | None) -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    started = float(os.environ["PEER_STARTED"])
    documents, query, facts = WORKERS[name](folder, dtype)
    import numpy as np

    query(["one text"])
    answer: dict[str, Any] = {"cold_s": time.time() - started}
    while True:
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1024 if sys.platform == "linux" else 2**20
        )
        print("@" + json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        began = time.perf_counter()
        if request["what"] == "documents":
            rows = documents(request["texts"], request["batch_size"])
            answer = {"seconds": time.perf_counter() - began}
            np.save(request["to"], np.asarray(rows, dtype=np.float32))
        elif request["what"] == "queries":
            taken = []
            for text in request["texts"]:
                began = time.perf_counter()
                query([text])
                taken.append(time.perf_counter() - began)
            answer = {"taken": taken}
        else:
            answer = facts()


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


class Peer:
    """A worker process."""

    def __init__(self, name: str, python: str, folder: str, dtype: str | None) -> None:
        self.name = name
        environment = {**os.environ, "PEER_STARTED": str(time.time()), "HF_HUB_OFFLINE": "1"}
        command = [python, str(HERE), "--worker", name, folder, *(["--dtype", dtype] if dtype else [])]
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


def spread(values: list[float], digits: int = 0) -> str:
    """Median (least–greatest)."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def run(args: argparse.Namespace) -> None:
    """Start the peers, alternate, print."""
    sys.path.insert(0, str(HERE.parent))
    import corpus_text
    import numpy as np

    from akidb_mlx.checkpoint import read_checkpoint
    from akidb_mlx.tokenizer import Tokenizer

    folder = str(Path(args.folder).resolve())
    texts = corpus_text.documents(args.documents, args.sentences)
    queries = corpus_text.queries(args.queries)
    checkpoint = read_checkpoint(Path(folder))
    tokenizer = Tokenizer(checkpoint.tokenizer_file, checkpoint.max_seq_length)
    counts = [len(ids) for ids in tokenizer.tokenize(texts).token_ids]
    tokens = sum(counts)
    pythons = {
        "ours": sys.executable,
        "sentence-transformers": args.reference_python,
        "mlx-embeddings": args.mlx_embeddings_python,
    }
    peers = [Peer(name, python, folder, args.dtype) for name, python in pythons.items() if python]
    cold = {peer.name: [peer.first["cold_s"]] for peer in peers}
    cold_peak = {peer.name: [peer.first["peak_mb"]] for peer in peers}
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    best: dict[str, int] = {}
    for peer in peers:  # warm up, and find the peer's best batch size; ours batches by tokens
        tried = {
            size: peer.ask(what="documents", texts=texts, batch_size=size, to="/tmp/peer.npy")["seconds"]
            for size in (sizes if peer.name != "ours" else [0, 0])
        }
        best[peer.name] = min(tried, key=lambda size: tried[size])
    speed: dict[str, list[float]] = {peer.name: [] for peer in peers}
    latency: dict[str, list[float]] = {peer.name: [] for peer in peers}
    rows: dict[str, Any] = {}
    for _ in range(args.rounds):
        for peer in peers:
            file = f"/tmp/peer-{peer.name}.npy"
            seconds = peer.ask(what="documents", texts=texts, batch_size=best[peer.name], to=file)["seconds"]
            speed[peer.name].append(tokens / seconds)
            rows[peer.name] = np.load(file)
        for peer in peers:
            latency[peer.name] += peer.ask(what="queries", texts=queries)["taken"]
    facts = {peer.name: peer.ask(what="facts") for peer in peers}
    for peer in peers:
        peer.end()
    for _ in range(args.cold_rounds - 1):
        for name, python in pythons.items():
            if python:
                peer = Peer(name, python, folder, args.dtype)
                cold[name].append(peer.first["cold_s"])
                cold_peak[name].append(peer.first["peak_mb"])
                peer.end()
    stats = facts["ours"]
    print(
        f"{Path(folder).name}, {args.dtype or 'float32'}: {len(texts)} texts, {tokens} tokens, longest {max(counts)};"
    )
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {_versions(facts)}")
    print(f"padding share of ours {stats['padding_share']}\n\n| | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")

    def line(what: str, shown: Callable[[str], str]) -> None:
        print(f"| {what} | {' | '.join(shown(name) for name in rows)} |")

    line("batch size", lambda n: "by tokens" if n == "ours" else str(best[n]))
    line("tokens/s", lambda n: spread(speed[n]))
    line("documents/s", lambda n: spread([value * len(texts) / tokens for value in speed[n]], 1))
    line("ours / theirs", lambda n: spread([a / b for a, b in zip(speed["ours"], speed[n], strict=True)], 2))
    line("query P50, ms", lambda n: f"{1000 * np.percentile(latency[n], 50):.2f}")
    line("query P95, ms", lambda n: f"{1000 * np.percentile(latency[n], 95):.2f}")
    line("ours / theirs, P50", lambda n: f"{np.percentile(latency['ours'], 50) / np.percentile(latency[n], 50):.2f}")
    line("cold start to first vector, s", lambda n: spread(cold[n], 2))
    line("peak memory then, MB", lambda n: spread(cold_peak[n]))
    line("largest difference to ours", lambda n: f"{np.abs(rows[n] - rows['ours']).max():.1e}")


def _versions(facts: dict[str, dict[str, Any]]) -> str:
    names = ("mlx", "torch", "sentence-transformers", "mlx-embeddings")
    return ", ".join(f"{n} {f[n]}" for f in facts.values() for n in names if n in f)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--worker", choices=WORKERS)
    parser.add_argument("--reference-python")
    parser.add_argument("--mlx-embeddings-python")
    parser.add_argument("--dtype")
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--sentences", type=int, default=6)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", default="32,128,256")
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.folder, args.dtype)
    else:
        run(args)


if __name__ == "__main__":
    main()
