"""Peak memory and time of one long text on the CPU, over those of a short one: each length in a process of its own.

    python benchmarks/memory.py MODEL [--lengths 512,4096,8192,16384] [--python PY]

MODEL: a checkpoint that takes as many tokens (benchmarks/make_checkpoint.py bert-long). With `--python` a second
environment's Python computes the same, turn by turn: another version of this package, say.
"""

import argparse
import json
import os
import subprocess
import sys

CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np
from akidb_mlx import Embedder

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))

model, length, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with Embedder.load(model, max_seq_length=length, device="cpu", max_queued_tokens=10**6) as embedder:
    embedder.encode(["a short text"])
    before = peak()
    words = "the weather is sunny today and people walk in the park near our old house".split()
    text = " ".join(words[(7 * place + place // 15) % len(words)] for place in range(length))
    began = time.perf_counter()
    row = embedder.encode([text])
    seconds = time.perf_counter() - began
    after = peak()
    np.save(out, row)
    print(json.dumps({"mb": after - before, "s": seconds}))
"""


def measure(python: str, model: str, length: int, out: str) -> dict[str, float]:
    """Megabytes above the short text's peak, seconds."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    command = [python, "-c", CHILD, model, str(length), out]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        return {"mb": float("nan"), "s": float("nan")}
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--lengths", default="512,4096,8192,16384")
    parser.add_argument("--python")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    pythons = [sys.executable, *([args.python] if args.python else [])]
    for length in map(int, args.lengths.split(",")):
        for _ in range(args.rounds):
            for place, python in enumerate(pythons):
                found = measure(python, args.model, length, f"/tmp/akidb-mlx-row-{os.getpid()}-{place}.npy")
                print(f"{length:>6} tokens  {python}  {found['mb']:8.0f} MB  {found['s']:7.2f} s", flush=True)
            if len(pythons) > 1:
                import numpy as np

                a, b = (np.load(f"/tmp/akidb-mlx-row-{os.getpid()}-{place}.npy") for place in range(2))
                print(f"{length:>6} tokens  largest difference {abs(a - b).max():.1e}", flush=True)


if __name__ == "__main__":
    main()
