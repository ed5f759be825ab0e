"""A checkpoint of a real model's shape with random weights, for measuring speed where no download is possible.

    python benchmarks/make_checkpoint.py SHAPE FOLDER --tokenizer FILE [--dtype D] [--bits 4]

The folder is in sentence-transformers' layout, so that every peer loads it. The tokenizer is any WordPiece
tokenizer.json (MiniLM's); Qwen3's shape then reads its ids out of a larger vocabulary, which changes no time.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import akidb_mlx  # noqa: F401  # before mlx

WORDS = ["where", "is", "the", "harbour", "boats", "need", "diesel", "and", "a", "dry", "mooring", "in", "winter"]

BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "vocab_size": 30522,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
}
SHAPES: dict[str, dict[str, Any]] = {
    "minilm": {
        **BERT,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_attention_heads": 12,
        "num_hidden_layers": 6,
    },
    "bert-large": {
        **BERT,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    },
    "bert-long": {  # BERT-base with positions for long texts
        **BERT,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "max_position_embeddings": 16384,
    },
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 28,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "rope_scaling": None,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 28,
        "vocab_size": 151_669,
        "bos_token_id": 102,
        "eos_token_id": 102,
    },
}


def names(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight, as published."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, channels: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (channels,)
        if bias:
            shapes[f"{name}.bias"] = (channels,)

    if config["model_type"] == "bert":
        for table, rows in (
            ("word", "vocab_size"),
            ("position", "max_position_embeddings"),
            ("token_type", "type_vocab_size"),
        ):
            shapes[f"embeddings.{table}_embeddings.weight"] = (config[rows], width)
        norm("embeddings.LayerNorm", width)
        for index in range(config["num_hidden_layers"]):
            layer = f"encoder.layer.{index}"
            for part in ("query", "key", "value"):
                linear(f"{layer}.attention.self.{part}", width, width)
            linear(f"{layer}.attention.output.dense", width, width)
            norm(f"{layer}.attention.output.LayerNorm", width)
            linear(f"{layer}.intermediate.dense", width, inner)
            linear(f"{layer}.output.dense", inner, width)
            norm(f"{layer}.output.LayerNorm", width)
        return shapes
    heads, kv, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    shapes["model.embed_tokens.weight"] = (config["vocab_size"], width)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        linear(f"{layer}.self_attn.q_proj", width, heads * head, False)
        linear(f"{layer}.self_attn.k_proj", width, kv * head, False)
        linear(f"{layer}.self_attn.v_proj", width, kv * head, False)
        linear(f"{layer}.self_attn.o_proj", heads * head, width, False)
        norm(f"{layer}.self_attn.q_norm", head, False)
        norm(f"{layer}.self_attn.k_norm", head, False)
        linear(f"{layer}.mlp.gate_proj", width, inner, False)
        linear(f"{layer}.mlp.up_proj", width, inner, False)
        linear(f"{layer}.mlp.down_proj", inner, width, False)
        norm(f"{layer}.input_layernorm", width, False)
        norm(f"{layer}.post_attention_layernorm", width, False)
    norm("model.norm", width, False)
    return shapes


def make(shape: str, folder: Path, tokenizer: Path, dtype: str, max_seq_length: int, bits: int | None) -> None:
    """Write the checkpoint."""
    config = {**SHAPES[shape], "torch_dtype": dtype}
    if bits:
        config["quantization"] = {"group_size": 64, "bits": bits, "mode": "affine"}
    decoder = config["model_type"] != "bert"
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    mx.random.seed(0)
    weights = {}
    for name, size in names(config).items():
        if "norm" in name.lower():
            weight = mx.ones(size) if name.endswith("weight") else mx.zeros(size)
        else:
            weight = mx.random.normal(size) * (0.02 if len(size) == 2 else 0.0)
        weight = weight.astype(getattr(mx, dtype))
        if bits and len(size) == 2:
            parts = mx.quantize(weight, group_size=64, bits=bits)
            base = name.removesuffix(".weight")
            weights.update(zip((name, f"{base}.scales", f"{base}.biases"), parts, strict=True))
        else:
            weights[name] = weight
        mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    spelled = json.loads(tokenizer.read_text())
    spelled["truncation"] = spelled["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(spelled))
    write = {
        "config.json": config,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_seq_length,
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "unk_token": "[UNK]",
        },
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": config["hidden_size"],
            "pooling_mode_mean_tokens": not decoder,
            "pooling_mode_lasttoken": decoder,
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
    }
    for name, content in write.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    shutil.copymode(tokenizer, folder / "tokenizer.json")


def make_with_tokenizer(shape: str, folder: Path) -> Path:
    """The same with a tokenizer of `WORDS`, for where no other is at hand; the folder."""
    special = ["[PAD]", *[f"[unused{place}]" for place in range(99)], "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {word: place for place, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    file = folder.parent / f"{folder.name}-tokenizer.json"
    tokenizer.save(str(file))
    make(shape, folder, file, "float32", 512, None)
    return folder


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--max-seq-length", type=int, default=512)
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantise matrices as MLX's converter does")
    args = parser.parse_args()
    make(args.shape, args.folder, args.tokenizer, args.dtype, args.max_seq_length, args.bits)


if __name__ == "__main__":
    main()
