"""How many operations MLX is given for one batch, per model: what a GPU's lone query spends its time on.

    python benchmarks/operations.py [--device cuda|metal] [--names] [FOLDER …]

Counted on the real way of a call, on any machine: what is handed to MLX's evaluation is exported as a graph and its
primitives are counted. `kernels` are those that compute; the others only say how an array lies in memory (a reshape
of what does not lie in order is computed all the same). Where MLX has one kernel on a GPU and several operations on a
CPU (norms, rotary positions, attention), the one is counted; the way of NumPy and of our CPU kernels is turned off.
"""

import argparse
import collections
import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from akidb_mlx import Embedder
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.layers import cpu_kernels

REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "reference"
FAMILIES = (
    "bert-minilm-like bert-cls xlm-roberta-e5 mpnet-mean modernbert-cls nomic-published gte-base-en t5-sentence "
    "qwen3-embedding llama-bidirectional gemma-mean embeddinggemma"
)
SHAPES = {
    "query": ([7], 1),
    "query, padded": ([7], 8),
    "equal lengths": ([7] * 4, 1),
    "other lengths": ([7, 5, 6, 3], 1),
}
"""Tokens of each row, and what lengths are multiples of: on CUDA 8."""
VIEWS = frozenset(
    {
        "AsStrided",
        "Broadcast",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unflatten",
    }
)
_NODE = re.compile(r'\{ \d+ \[label ="([^"]+)"')
Counts = collections.Counter[str]


def primitives(*arrays: Any) -> Counts:
    """Of what is to be computed for these."""
    import mlx.core as mx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph"
        mx.export_to_dot(str(file), *arrays)
        return collections.Counter(_NODE.findall(file.read_text()))


def kernels(counts: Counts) -> int:
    """How many of them compute."""
    return sum(count for name, count in counts.items() if name not in VIEWS)


@contextlib.contextmanager
def counted(device: str = "cuda") -> Iterator[Counts]:
    """The primitives of all that is evaluated in the block, as a GPU of this kind would be given them.

    The numbers that come out of it are not the model's.
    """
    import mlx.core as mx

    counts: Counts = collections.Counter()

    def counting(evaluate: Callable[..., None]) -> Callable[..., None]:
        def count(*arrays: Any) -> None:
            flat = [part for one in arrays for part in (one if isinstance(one, list | tuple) else [one])]
            counts.update(_named(primitives(*flat)))
            evaluate(*arrays)

        return count

    with contextlib.ExitStack() as patches:
        for place, name, stand_in in (
            (mx, "async_eval", counting(mx.async_eval)),
            (mx, "eval", counting(mx.eval)),
            (mx.fast, "layer_norm", _layer_norm),
            (mx.fast, "rms_norm", _rms_norm),
            (mx.fast, "rope", _rope),
            (mx.fast, "scaled_dot_product_attention", _attention),
            (mx.metal, "is_available", lambda: device == "metal"),
            (cpu_kernels, "computes_on_cpu", lambda x: False),
        ):
            patches.enter_context(mock.patch.object(place, name, stand_in))
        yield counts


def _named(counts: Counts) -> Counts:
    """Compiled functions under one name, for their own says all that is in them; stand-ins under another."""
    named: Counts = collections.Counter()
    for name, count in counts.items():
        named["Compiled" if name.startswith("Compiled") else "Kernel" if name == "Depends" else name] += count
    return named


def _one(x: Any, *others: Any) -> Any:
    """One primitive that reads all of these and gives what looks like `x`."""
    import mlx.core as mx

    return mx.depends([x], [other for other in others if other is not None])[0]


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    return _one(_as_norms_are(x, weight, bias), weight, bias)


def _rms_norm(x: Any, weight: Any, eps: float) -> Any:
    return _one(_as_norms_are(x, weight), weight)


def _as_norms_are(x: Any, *others: Any) -> Any:
    import mlx.core as mx

    dtypes = {other.dtype for other in others if other is not None} | {x.dtype}
    return x if len(dtypes) == 1 else x.astype(mx.float32)


def _rope(x: Any, dims: int, *, freqs: Any = None, **_: Any) -> Any:
    return _one(x, freqs)


def _attention(queries: Any, keys: Any, values: Any, *, scale: float, mask: Any = None) -> Any:
    import mlx.core as mx

    if isinstance(mask, mx.array):
        if mask.dtype != mx.bool_:
            mask = mask.astype(queries.dtype)
        mask = mx.broadcast_to(mask, (*queries.shape[:3], keys.shape[2]))
    return _one(queries, keys, values, mask if isinstance(mask, mx.array) else None)


def count_batch(embedder: Embedder, lengths: list[int], multiple: int, device: str = "cuda") -> Counts:
    """Of one batch of rows with so many tokens; the second one of its shape, for some arrays are kept."""
    import numpy as np

    engine = embedder._loaded.engine
    backbone = engine.live_model.backbone
    if backbone.on_host is not None:
        backbone.on_host = None
        DEVICE_THREADS.run(getattr(backbone, "settle", lambda: None)).result()
    engine.scheduler._shapes = Shapes(length_multiple=multiple)
    for _ in range(2):
        rows = [Encoding(np.arange(20, 20 + length, dtype=np.int32) + place) for place, length in enumerate(lengths)]
        with counted(device) as counts:
            engine.submit(rows, urgent=True).result()
    return counts


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="models (default: tiny ones of each family)")
    parser.add_argument("--device", choices=("cuda", "metal"), default="cuda")
    parser.add_argument("--names", action="store_true", help="say which operations, of one query")
    options = parser.parse_args()
    print(
        f"| model, layers | {' | '.join(f'{shape}: all, kernels' for shape in SHAPES)} |\n|---|{'---|' * len(SHAPES)}"
    )
    for folder in options.folders or [str(REFERENCE / name) for name in FAMILIES.split()]:
        with Embedder.load(folder) as embedder:
            found = {shape: count_batch(embedder, *batch, options.device) for shape, batch in SHAPES.items()}
        cells = " | ".join(f"{counts.total()}, {kernels(counts)}" for counts in found.values())
        print(f"| {Path(folder).name} | {cells} |")
        if options.names:
            print("   ", ", ".join(f"{count} {name}" for name, count in found["query"].most_common()))


if __name__ == "__main__":
    main()
