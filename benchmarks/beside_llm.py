"""Queries beside mlx-lm, which generates in another thread of the same process: latency, vectors, MLX's settings.

    python benchmarks/beside_llm.py --shape bert-large --llm-width 2048 --llm-layers 16 --seconds 20

Random weights of real shapes, made in a temporary folder; needs mlx, mlx-lm, numpy and tokenizers, and no network. The
device is MLX's default one. Three phases of equal length in one run: queries alone, the language model alone, both.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import akidb_mlx
from akidb_mlx import Embedder

sys.path.insert(0, str(Path(__file__).parent))

import mlx.core as mx
import numpy as np
from make_checkpoint import SHAPES, WORDS, make_with_tokenizer
from mlx_lm.generate import generate_step
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.sample_utils import make_sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="minilm", choices=[*SHAPES])
    parser.add_argument("--dtype", default=None, help="of the embedder")
    parser.add_argument("--llm-width", type=int, default=512)
    parser.add_argument("--llm-layers", type=int, default=8)
    parser.add_argument("--llm-vocabulary", type=int, default=32_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--pause-ms", type=float, default=20.0, help="between two queries")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        print(json.dumps(_measure(args, make_with_tokenizer(args.shape, folder / "model")), indent=1))
    finally:
        shutil.rmtree(folder)


def _measure(args: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    llm = make_llm(args.llm_width, args.llm_layers, args.llm_vocabulary)
    list(generate(llm, 8))
    before = settings()
    texts = [" ".join([*WORDS[place:], *WORDS[:place]]) for place in range(len(WORDS))]
    with Embedder.load(checkpoint, **({"dtype": args.dtype} if args.dtype else {})) as embedder:
        expected = embedder.encode_query(texts)
        told: dict[str, Any] = {
            "device": embedder.info()["backend"],
            "mlx": mx.__version__,
            "akidb_mlx": akidb_mlx.__version__,
            "load_before": os.getloadavg()[0],
        }
        for name, with_queries, with_llm in (
            ("queries_alone", True, False),
            ("llm_alone", False, True),
            ("both", True, True),
        ):
            stop = threading.Event()
            counted: list[int] = []
            thread = threading.Thread(target=lambda stop=stop, counted=counted: _generate(llm, stop, counted))
            if with_llm:
                thread.start()
            told[name] = _ask(embedder, texts, expected, args) if with_queries else _wait(args.seconds)
            stop.set()
            if with_llm:
                thread.join()
                told[name]["llm_tokens_per_s"] = round(sum(counted) / args.seconds, 1)
        told["load_after"] = os.getloadavg()[0]
    told["settings_unchanged"] = {name: before[name] == now for name, now in settings().items()}
    return told


def _ask(embedder: Embedder, texts: list[str], expected: Any, args: argparse.Namespace) -> dict[str, Any]:
    times, largest, place = list[float](), 0.0, 0
    ends = time.perf_counter() + args.seconds
    while time.perf_counter() < ends:
        place = (place + 1) % len(texts)
        began = time.perf_counter()
        row = embedder.encode_query([texts[place]])[0]
        times.append(1000 * (time.perf_counter() - began))
        largest = max(largest, float(np.abs(row - expected[place]).max()))
        time.sleep(args.pause_ms / 1000)
    return {
        "queries": len(times),
        "p50_p95_p99_ms": np.percentile(times, [50, 95, 99]).round(2).tolist(),
        "largest_difference": largest,
    }


def _wait(seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {}


def _generate(llm: Model, stop: threading.Event, counted: list[int]) -> None:
    while not stop.is_set():
        for _ in generate(llm, 64):
            counted.append(1)
            if stop.is_set():
                return


def make_llm(width: int, layers: int, vocabulary: int) -> Model:
    """A Llama of random weights."""
    arguments = ModelArgs(
        model_type="llama",
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=4 * width,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 256),
        rms_norm_eps=1e-5,
        vocab_size=vocabulary,
    )
    model = Model(arguments)
    if mx.is_available(mx.gpu):
        model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    return model


def generate(llm: Model, count: int) -> Any:
    """Tokens, sampled."""
    prompt = mx.array([1, 2, 3, 4])
    for token, _ in generate_step(prompt, llm, max_tokens=count, sampler=make_sampler(temp=1.0)):
        yield int(token)


def settings() -> dict[str, Any]:
    """What MLX has for the whole process; the limits are read by setting them."""
    limits = {}
    for name in ("cache", "memory", "wired"):
        change = getattr(mx, f"set_{name}_limit")
        limits[f"{name}_limit"] = change(0 if name == "wired" else 2**30)
        change(limits[f"{name}_limit"])
    device = mx.default_device()
    return {
        **limits,
        "default_device": str(device),
        "default_stream": str(mx.default_stream(device)),
        "random_state": [np.array(key).tolist() for key in mx.random.state],
    }


if __name__ == "__main__":
    main()
