"""JinaBERT in torch, written from its paper and ALiBi's, and its tiny checkpoints in the published form.

No class of transformers computes it: its own code lies on the Hub. candding (another implementation, in Rust) gives the
same for these folders where it reads them; `second_source` in reference.json says how near.
"""
# ruff: noqa: E501 -- a case a row reads as a table.

import io
import json
import math
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from case import write_json
from safetensors.torch import load_file, save_file
from tiny_tokenizers import make_wordpiece
from transformers import AutoTokenizer

from reference import cosine, make_texts

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class JinaCase:
    """A tiny checkpoint of one kind of layer."""

    name: str
    kind: str  # of layer: base, qk, code
    checks: str
    heads: int = 6
    width: int = 24
    inner: int = 32
    layers: int = 2
    feed_forward: str = "geglu"
    prefix: str = ""
    normalize: bool = True
    dtype: torch.dtype = torch.float16
    max_seq_length: int = 48
    lengths: tuple[int, ...] = ()
    second_source: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)


CASES = (
    JinaCase("jina-v2-base", "base", "ALiBi's slopes of six heads, the first half of the network is its gate; stored in float16, computed in float32"),
    JinaCase("jina-v2-qk", "qk", "queries and keys normed before they are split into heads; a text beyond 512 tokens, block by block",
             heads=12, width=48, max_seq_length=640),
    JinaCase("jina-v2-code", "code", "the input added a second time, the second half of the network is its gate; no Normalize", heads=3,
             normalize=False, config={"attn_implementation": "torch"}),
    JinaCase("jina-v2-reglu", "base", "a ReLU gate; `bert.` keys", feed_forward="reglu", prefix="bert.", dtype=torch.float32, second_source=False),
    JinaCase("jina-v2-original", "base", "BERT's network under ALiBi", heads=4, feed_forward="original", dtype=torch.float32, second_source=False),
    JinaCase("heads-64-jina-v2", "base", "three heads of 64, with slopes of their own", heads=3, width=192, layers=1, max_seq_length=96,
             lengths=(4, 5, 8, 9, 32, 33, 64, 65)),
)  # fmt: skip


def slopes(heads: int) -> list[float]:
    """ALiBi's (section 3): a geometric sequence; between powers of two every second one of the next sequence."""
    if math.log2(heads).is_integer():
        return [2 ** (-8 * (i + 1) / heads) for i in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return slopes(below) + slopes(2 * below)[0::2][: heads - below]


@dataclass(frozen=True)
class JinaBert:
    """Hidden states from published weights; the settings after the first two are what may be got wrong."""

    tensors: Tensors
    config: Mapping[str, Any]
    slopes: Callable[[int], list[float]] = slopes
    swapped: bool = False
    tanh: bool = False
    norms_of_queries: bool = True
    second_residual: bool = True

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(rows, length) ids and 1 on real tokens → (rows, length, width)."""
        prefix = next(name for name in self.tensors if name.endswith("word_embeddings.weight")).partition(
            "embeddings."
        )[0]
        get = {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items()}
        heads, x = self.config["num_attention_heads"], get["embeddings.word_embeddings.weight"][ids]
        x = self.norm(x + get["embeddings.token_type_embeddings.weight"][0], get, "embeddings.LayerNorm")
        places = torch.arange(ids.shape[1])
        distance = (places[:, None] - places[None, :]).abs()
        bias = -torch.tensor(self.slopes(heads), dtype=x.dtype)[:, None, None] * distance
        bias = bias[None].masked_fill(mask[:, None, None, :] == 0, -torch.inf)
        for layer in range(self.config["num_hidden_layers"]):
            x = self.layer(
                x,
                bias,
                heads,
                {
                    n.removeprefix(f"encoder.layer.{layer}."): t
                    for n, t in get.items()
                    if n.startswith(f"encoder.layer.{layer}.")
                },
            )
        return x

    def layer(self, x: torch.Tensor, bias: torch.Tensor, heads: int, get: Tensors) -> torch.Tensor:
        q, k, v = (linear(x, get, f"attention.self.{part}") for part in ("query", "key", "value"))
        if "attention.self.layer_norm_q.weight" in get and self.norms_of_queries:
            q, k = self.norm(q, get, "attention.self.layer_norm_q"), self.norm(k, get, "attention.self.layer_norm_k")
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        context = (weights @ v).transpose(1, 2).flatten(2)
        h = self.norm(linear(context, get, "attention.output.dense") + x, get, "attention.output.LayerNorm")
        if "layer_norm_1.weight" in get:
            if self.second_residual:
                h = self.norm(h + x, get, "layer_norm_1")
            second, first = linear(h, get, "mlp.up_gated_layer").chunk(2, -1)
            return self.norm(h + linear(self.gated(first, second), get, "mlp.down_layer"), get, "layer_norm_2")
        if "mlp.gated_layers.weight" in get:
            first, second = linear(h, get, "mlp.gated_layers").chunk(2, -1)
            return self.norm(h + linear(self.gated(first, second), get, "mlp.wo"), get, "mlp.layernorm")
        inner = torch.nn.functional.gelu(linear(h, get, "intermediate.dense"))
        return self.norm(linear(inner, get, "output.dense") + h, get, "output.LayerNorm")

    def gated(self, gate: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        gate, other = (other, gate) if self.swapped else (gate, other)
        if self.config["feed_forward_type"] == "reglu":
            return gate.relu() * other
        return torch.nn.functional.gelu(gate, approximate="tanh" if self.tanh else "none") * other

    def norm(self, x: torch.Tensor, get: Tensors, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], get[f"{name}.weight"], get[f"{name}.bias"], self.config["layer_norm_eps"]
        )


def linear(x: torch.Tensor, get: Tensors, name: str) -> torch.Tensor:
    out = x @ get[f"{name}.weight"].T
    return out + get[f"{name}.bias"] if f"{name}.bias" in get else out


def shapes(case: JinaCase, vocab: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as published; a norm has one of them for weight and bias."""
    h, i = case.width, case.inner
    layer = {
        **{f"attention.self.{part}": (h, h) for part in ("query", "key", "value")},
        "attention.output.dense": (h, h),
        "attention.output.LayerNorm": (h,),
    }
    if case.kind in ("qk", "code"):
        layer |= {"attention.self.layer_norm_q": (h,), "attention.self.layer_norm_k": (h,)}
    if case.kind == "code":
        layer |= {
            "mlp.up_gated_layer!": (2 * i, h),
            "mlp.down_layer": (h, i),
            "layer_norm_1": (h,),
            "layer_norm_2": (h,),
        }
    elif case.feed_forward == "original":
        layer |= {"intermediate.dense": (i, h), "output.dense": (h, i), "output.LayerNorm": (h,)}
    else:
        layer |= {"mlp.gated_layers!": (2 * i, h), "mlp.wo": (h, i), "mlp.layernorm": (h,)}
    tables = {
        "embeddings.word_embeddings!": (vocab, h),
        "embeddings.token_type_embeddings!": (2, h),
        "embeddings.LayerNorm": (h,),
    }
    pooler = {"pooler.dense": (h, h)} if case.layers > 1 else {}
    layers = {f"encoder.layer.{n}.{name}": shape for n in range(case.layers) for name, shape in layer.items()}
    return {**tables, **layers, **pooler}


def random_tensors(parts: Mapping[str, tuple[int, ...]], name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Weights so large that a wrong mask, slope, half or norm shows; a name that ends in `!` has no bias."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    tensors: dict[str, torch.Tensor] = {}
    for part, shape in parts.items():
        full, noise = f"{prefix}{part.rstrip('!')}", torch.randn(shape, generator=generator)
        if "embeddings." in part and len(shape) == 2:
            tensors[f"{full}.weight"] = noise
            continue
        gain = 2.0 if any(kind in part for kind in ("query", "key", "Wqkv")) else 1.4
        tensors[f"{full}.weight"] = noise * gain / math.sqrt(shape[-1]) if len(shape) == 2 else 1 + noise * 0.3
        if not part.endswith("!"):
            tensors[f"{full}.bias"] = torch.randn(shape[0], generator=generator) * 0.2
    return tensors


def published_config(case: JinaCase, vocab: int) -> dict[str, Any]:
    """Every field of jina-embeddings-v2-base-en's."""
    code = "jinaai/jina-bert-v2-qk-post-norm" if case.kind == "code" else "jinaai/jina-bert-implementation"
    auto = {
        name: f"{code}--modeling_bert.JinaBert{end}"
        for name, end in (("AutoModel", "Model"), ("AutoModelForMaskedLM", "ForMaskedLM"))
    }
    return {
        "_name_or_path": code,
        "model_max_length": 8192,
        "architectures": ["JinaBertForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "auto_map": {"AutoConfig": f"{code}--configuration_bert.JinaBertConfig", **auto},
        "classifier_dropout": None,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": case.width,
        "initializer_range": 0.02,
        "intermediate_size": case.inner,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 8192,
        "model_type": "bert",
        "num_attention_heads": case.heads,
        "num_hidden_layers": case.layers,
        "pad_token_id": 0,
        "position_embedding_type": "alibi",
        "torch_dtype": str(case.dtype).removeprefix("torch."),
        "transformers_version": "4.30.2",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": vocab,
        "feed_forward_type": case.feed_forward,
        "emb_pooler": "mean",
        **case.config,
    }


def write(case: JinaCase, folder: Path) -> None:
    """The folder as published: sentence-transformers 2's files beside the weights."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer = make_wordpiece()
    vocab = tokenizer.get_vocab_size() + 6  # filled up, as the published ones are
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    tensors = random_tensors(shapes(case, vocab), case.name, case.prefix)
    save_file(
        {name: tensor.to(case.dtype) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    write_json(folder / "config.json", published_config(case, vocab))
    write_json(
        folder / "tokenizer_config.json",
        {
            "clean_up_tokenization_spaces": True,
            "cls_token": "[CLS]",
            "do_basic_tokenize": True,
            "do_lower_case": True,
            "mask_token": "[MASK]",
            "model_max_length": 2147483648,
            "never_split": None,
            "pad_token": "[PAD]",
            "sep_token": "[SEP]",
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "tokenizer_class": "BertTokenizer",
            "unk_token": "[UNK]",
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": case.max_seq_length, "do_lower_case": False})
    modules = ["Transformer", "Pooling"] + ["Normalize"] * case.normalize
    rows = [
        (index, f"{index}_{kind}" if index else "", f"sentence_transformers.models.{kind}")
        for index, kind in enumerate(modules)
    ]
    write_json(
        folder / "modules.json",
        [{"idx": index, "name": str(index), "path": path, "type": kind} for index, path, kind in rows],
    )
    flags = {
        f"pooling_mode_{mode}": mode == "mean_tokens"
        for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    }
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": case.width, **flags})


def mean_rows(hidden: torch.Tensor, mask: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """sentence-transformers' mean of the real tokens, at unit length where its Normalize follows."""
    rows = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(rows, dim=-1) if normalize else rows


def texts_of(tokenizer: Any, limit: int, lengths: Sequence[int] = ()) -> tuple[dict[str, str], list[str]]:
    """`reference.make_texts` without a SentenceTransformer."""
    return make_texts(_Tokenizing(tokenizer, limit), lengths)


@dataclass(frozen=True)
class _Tokenizing:
    """What `make_texts` reads of a SentenceTransformer."""

    tokenizer: Any
    max_seq_length: int

    def __getitem__(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(modality_config={})


@torch.inference_mode()
def make(case: JinaCase, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Write the checkpoint to `folder`; gives the formula's vectors and the facts for reference.json."""
    write(case, folder)
    stored = load_file(folder / "model.safetensors")
    config = published_config(case, len(next(t for n, t in stored.items() if n.endswith("word_embeddings.weight"))))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labelled, without_tokens = texts_of(tokenizer, case.max_seq_length, case.lengths)
    texts = list(labelled.values())
    ids = [tokenizer(text, truncation=True, max_length=case.max_seq_length)["input_ids"] for text in texts]

    def rows(dtype: torch.dtype = torch.float32, **wrong: Any) -> np.ndarray:
        model = JinaBert({name: tensor.to(dtype) for name, tensor in stored.items()}, config, **wrong)
        alone = [(torch.tensor([one]), torch.ones(1, len(one), dtype=dtype)) for one in ids]
        return np.concatenate(
            [mean_rows(model(one, mask), mask, normalize=case.normalize).numpy() for one, mask in alone]
        )

    embeddings = rows()
    scale = max(1.0, float(np.abs(embeddings).max()))
    assert np.isfinite(embeddings).all()
    assert np.median(cosine(embeddings)[np.triu_indices(len(texts), 1)]) < 0.99
    assert np.abs(rows(torch.float64) - embeddings).max() < 3e-6 * scale
    longest = max(map(len, ids))
    padded = torch.tensor([one + [0] * (longest - len(one)) for one in ids])
    mask = torch.tensor([[1.0] * len(one) + [0.0] * (longest - len(one)) for one in ids])
    batched = JinaBert({name: tensor.float() for name, tensor in stored.items()}, config)(padded, mask)
    assert np.abs(mean_rows(batched, mask, normalize=case.normalize).numpy() - embeddings).max() < 3e-6 * scale
    mistakes: dict[str, dict[str, Any]] = {"no slopes": {"slopes": lambda heads: [0.0] * heads}}
    if not math.log2(case.heads).is_integer():
        mistakes["slopes in one sequence"] = {
            "slopes": lambda heads: [2 ** (-8 * (i + 1) / heads) for i in range(heads)]
        }
    if case.feed_forward != "original":
        mistakes["halves"] = {"swapped": True}
    if case.feed_forward == "geglu" and not case.name.startswith("heads-"):
        mistakes["GELU by tanh"] = {"tanh": True}
    if case.kind in ("qk", "code"):
        mistakes["norms of queries and keys"] = {"norms_of_queries": False}
    if case.kind == "code":
        mistakes["second residual"] = {"second_residual": False}
    moved = {what: float(np.abs(rows(**wrong) - embeddings).max()) for what, wrong in mistakes.items()}
    assert all(distance > (1e-4 if what == "GELU by tanh" else 1e-2) for what, distance in moved.items()), moved
    vectors = {"embeddings": embeddings}
    if case.dtype != torch.float32:
        vectors["stored_dtype_embeddings"] = rows(case.dtype).astype(np.float32)
    second = with_candding(folder, texts, case.max_seq_length, normalize=case.normalize) if case.second_source else None
    if second is not None:
        assert np.abs(second - embeddings).max() < 1e-5 * scale, np.abs(second - embeddings).max()
    return vectors, {
        "case": case.name,
        "family": "jina-bert",
        "checks": case.checks,
        "reference": "torch formula (tests/reference/jina.py)",
        "second_source": None if second is None else f"candding 0.1.0, {np.abs(second - embeddings).max():.1e}",
        "max_seq_length": case.max_seq_length,
        "stored_dtype": str(case.dtype).removeprefix("torch."),
        "refusal_allowed": False,
        "labels": list(labelled),
        "texts": texts,
        "token_ids": ids,
        "texts_without_tokens": without_tokens,
        "config_changes_that_must_show": moved,
    }


def with_candding(folder: Path, texts: list[str], limit: int, *, normalize: bool) -> np.ndarray | None:
    """candding's vectors; None where no CANDDING_PYTHON names a Python that has it."""
    python = os.environ.get("CANDDING_PYTHON")
    if python is None:
        sys.stderr.write(f"{folder.name}: CANDDING_PYTHON is not set: no second source\n")
        return None
    program = (
        "import sys, json, candding, numpy as np\n"
        "folder, texts, limit, normalize = json.load(sys.stdin)\n"
        "model = candding.TextEmbedding(folder, normalize=normalize, dtype='f32', device='cpu', max_length=limit)\n"
        "np.save(sys.stdout.buffer, np.concatenate([model.embed([text]) for text in texts]))\n"
    )
    given = json.dumps([str(folder), texts, limit, normalize])
    done = subprocess.run([python, "-c", program], input=given.encode(), capture_output=True, check=False)
    assert not done.returncode, done.stderr.decode()
    return np.load(io.BytesIO(done.stdout))
