"""A random BERT of two layers with heads of 64, written to a folder, and its rows in float64 NumPy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from akidb_mlx.doctor import exact
from akidb_mlx.doctor.findings import Exact

__all__ = ["LONGEST", "TinyModel", "make_text", "write_tiny_model"]

LONGEST = 512
"""Tokens that it has positions for."""
_WIDTH, _HEADS, _INNER, _LAYERS, _WORDS = 128, 2, 256, 2, 500
_EPS = 1e-12
# Large enough that a wrong mask or position shows in the rows.
_SPREAD = 0.08
_CONFIG = {
    "model_type": "bert",
    "hidden_size": _WIDTH,
    "num_attention_heads": _HEADS,
    "num_hidden_layers": _LAYERS,
    "intermediate_size": _INNER,
    "vocab_size": _WORDS,
    "max_position_embeddings": LONGEST,
    "type_vocab_size": 1,
    "hidden_act": "gelu",
    "layer_norm_eps": _EPS,
    "pad_token_id": 0,
}
_MODULES = {  # folder → sentence-transformers' class
    "": "sentence_transformers.models.Transformer",
    "1_Pooling": "sentence_transformers.models.Pooling",
    "2_Normalize": "sentence_transformers.models.Normalize",
}
Weights = dict[str, NDArray[np.float32]]


def make_text(rng: np.random.Generator, tokens: int) -> str:
    """A text of this many of the model's words, each of them a token."""
    return " ".join(f"w{number}" for number in rng.integers(1, _WORDS, tokens))


class TinyModel:
    """The checkpoint's own weights in float64."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the weights under their names in the file."""
        self._weights = {name: weight.astype(np.float64) for name, weight in weights.items()}

    def rows(self, texts: Sequence[str]) -> Exact:
        """Mean over the tokens' hidden states, at unit length: (texts, width)."""
        pooled = np.stack([self._hidden_states(text).mean(axis=0) for text in texts])
        rows: Exact = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return rows

    def _hidden_states(self, text: str) -> Exact:
        """(tokens, width) of one text, alone and without padding."""
        weights, words = self._weights, [int(word[1:]) for word in text.split()]
        by_position = weights["embeddings.position_embeddings.weight"][: len(words)]
        x = weights["embeddings.word_embeddings.weight"][words] + by_position
        x = self._norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
        for index in range(_LAYERS):
            layer = f"encoder.layer.{index}"
            x = self._norm(f"{layer}.attention.output.LayerNorm", x + self._attention(f"{layer}.attention", x))
            inner = exact.ACTIVATIONS["gelu"](self._linear(f"{layer}.intermediate.dense", x))
            x = self._norm(f"{layer}.output.LayerNorm", x + self._linear(f"{layer}.output.dense", inner))
        return x

    def _attention(self, name: str, x: Exact) -> Exact:
        queries, keys, values = (
            self._linear(f"{name}.self.{part}", x).reshape(1, len(x), _HEADS, -1).swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = exact.attention_scores(queries, keys, (_WIDTH // _HEADS) ** -0.5)
        attended = exact.attention(scores, values, np.ones(scores.shape, bool))
        return self._linear(f"{name}.output.dense", attended[0].swapaxes(0, 1).reshape(len(x), -1))

    def _linear(self, name: str, x: Exact) -> Exact:
        mapped: Exact = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return mapped

    def _norm(self, name: str, x: Exact) -> Exact:
        return exact.layer_norm(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], _EPS)


def write_tiny_model(folder: Path) -> TinyModel:
    """Write a checkpoint as sentence-transformers does, in float32; the same numbers each time."""
    weights = _make_weights()
    (folder / "model.safetensors").write_bytes(_safetensors(weights))
    _write_json(folder / "config.json", _CONFIG)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": LONGEST, "do_lower_case": False})
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(_MODULES.items())
    ]
    _write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    _write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": _WIDTH, "pooling_mode_mean_tokens": True}
    )
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(_WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "w0"})
    return TinyModel(weights)


def _make_weights() -> Weights:
    rng = np.random.default_rng(22)

    def spread(*shape: int, around: float = 0.0) -> NDArray[np.float32]:
        return (around + _SPREAD * rng.standard_normal(shape)).astype(np.float32)

    def linear(name: str, inputs: int, outputs: int) -> Weights:
        return {f"{name}.weight": spread(outputs, inputs), f"{name}.bias": spread(outputs)}

    def norm(name: str) -> Weights:
        return {f"{name}.weight": spread(_WIDTH, around=1.0), f"{name}.bias": spread(_WIDTH)}

    tables = {"word": _WORDS, "position": LONGEST, "token_type": 1}
    weights = {f"embeddings.{name}_embeddings.weight": spread(rows, _WIDTH) for name, rows in tables.items()}
    weights |= norm("embeddings.LayerNorm")
    for index in range(_LAYERS):
        layer = f"encoder.layer.{index}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            weights |= linear(f"{layer}.attention.{name}", _WIDTH, _WIDTH)
        weights |= norm(f"{layer}.attention.output.LayerNorm")
        weights |= linear(f"{layer}.intermediate.dense", _WIDTH, _INNER)
        weights |= linear(f"{layer}.output.dense", _INNER, _WIDTH)
        weights |= norm(f"{layer}.output.LayerNorm")
    return weights


def _safetensors(weights: Weights) -> bytes:
    """The file's bytes: the header's length, the header, the numbers one tensor after the other."""
    header, end = {}, 0
    for name, weight in weights.items():
        header[name] = {"dtype": "F32", "shape": weight.shape, "data_offsets": [end, end + weight.nbytes]}
        end += weight.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(weight.tobytes() for weight in weights.values())


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
