"""The layers of transformers' ForSequenceClassification: hidden states → one number per label.

Layers and names are those of transformers 5.24's modelling code, by `model_type`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import UnsupportedModelError
from akidb_mlx.model.architectures.base import allow, read
from akidb_mlx.model.architectures.decoder_table import DECODERS
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.heads.pooling import pool, token_of
from akidb_mlx.model.layers.activations import activation

__all__ = ["CLASSIFIERS", "Classifier", "ClassifierLayout", "classifier_layout"]


@dataclass(frozen=True)
class ClassifierLayout:
    """Which layers one architecture's classifier has, and how its files call them."""

    out: str = "classifier"
    """The last layer, which gives the labels."""
    dense: str | None = None
    norm: str | None = None
    activation: str | None = None
    """Between `dense` and what follows; None: as config.json says."""
    activation_key: str = "classifier_activation"
    """config.json's key of it, exact GELU where it is not there."""
    reads: Literal["first", "stated", "last"] = "first"
    """The token that is read; "stated": as config.json's classifier_pooling says."""
    out_bias: bool = True


_POOLER = ClassifierLayout(dense="pooler.dense", activation="tanh")
_STATED_POOLER = ClassifierLayout(dense="pooler.dense", activation_key="pooler_hidden_act")
_TWO_LAYERS = ClassifierLayout(out="classifier.out_proj", dense="classifier.dense", activation="tanh")
# The encoders; decoders share one.
CLASSIFIERS: Mapping[str, ClassifierLayout] = {
    "albert": ClassifierLayout(dense="pooler", activation="tanh"),
    "bert": _POOLER,
    "camembert": _TWO_LAYERS,
    "deberta": _STATED_POOLER,
    "deberta-v2": _STATED_POOLER,
    "distilbert": ClassifierLayout(dense="pre_classifier", activation="relu"),
    "electra": ClassifierLayout(out="classifier.out_proj", dense="classifier.dense", activation="gelu"),
    "ernie": _POOLER,
    "eurobert": ClassifierLayout(dense="dense", activation="gelu", reads="stated"),
    "gte": _POOLER,
    "modernbert": ClassifierLayout(dense="head.dense", norm="head.norm", reads="stated"),
    "mpnet": _TWO_LAYERS,
    "new": _POOLER,
    "nomic_bert": _POOLER,
    "roberta": _TWO_LAYERS,
    "xlm-roberta": _TWO_LAYERS,
}
_DECODER = ClassifierLayout(out="score", reads="last", out_bias=False)
# Those whose classifier a reference has verified.
_DECODERS = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})


def classifier_layout(model_type: str) -> ClassifierLayout:
    """How an architecture scores texts; UnsupportedModelError where no reference has verified that here."""
    if model_type in _DECODERS:
        return _DECODER
    if model_type not in CLASSIFIERS:
        what = "decoder" if model_type in DECODERS else "model"
        known = ", ".join(sorted({*CLASSIFIERS, *_DECODERS}))
        raise UnsupportedModelError(
            f"a {what} of model_type {model_type!r} as a reranker is not supported; supported: {known}"
        )
    return CLASSIFIERS[model_type]


class Classifier(Head):
    """One token's hidden states, or their mean, through a layer or two."""

    def __init__(self, config: Mapping[str, Any], width: int, labels: int) -> None:
        """Make the layers with weights still to be loaded."""
        super().__init__()
        layout = classifier_layout(config["model_type"])
        self.width = labels
        self._reads: str = layout.reads
        if layout.reads == "stated":
            self._reads = allow(config, "classifier_pooling", _STATED[config["model_type"]])
        self._pad = config.get("pad_token_id")
        if layout.dense is not None:
            bias = layout.norm is None or read(config, "classifier_bias", bool, False)
            self.dense = nn.Linear(width, width, bias=bias)
            name = layout.activation or read(config, layout.activation_key, str, "gelu")
            self._activation = mx.tanh if name == "tanh" else activation({"hidden_act": name})
        if layout.norm is not None:
            eps = read(config, "norm_eps", float, 1e-5)
            self.norm = nn.LayerNorm(width, eps, bias=read(config, "norm_bias", bool, False))
        self.out = nn.Linear(width, labels, bias=layout.out_bias)

    @property
    def reads_first(self) -> bool:
        """Whether it reads each row's first token alone."""
        return self._reads in _FIRST

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, labels) float32, before the activation."""
        hidden = hidden_states.astype(mx.float32)
        if self._reads == "late":  # each token's own numbers, then their mean
            return _mean(self._label(hidden), batch)
        if self._reads == "mean":
            return self._label(_mean(hidden, batch))
        return self._label(token_of(hidden, self._last(batch)) if self._reads == "last" else hidden[:, 0])

    def _label(self, x: mx.array) -> mx.array:
        if "dense" in self:
            x = self._activation(self.dense(x))
        if "norm" in self:
            x = self.norm(x)
        out: mx.array = self.out(x)
        return out

    def _last(self, batch: DeviceBatch) -> NDArray[np.int32]:
        """The last token that is not the pad token, which a tokenizer may put after each text; else the first."""
        padded = batch.padded
        if self._pad is None:
            return padded.lengths - np.int32(1)
        places = np.arange(batch.length, dtype=np.int32)
        counts = (places < padded.lengths[:, None]) & (padded.input_ids != self._pad)
        last: NDArray[np.int32] = np.where(counts, places, np.int32(0)).max(axis=1)
        return last


_FIRST = ("first", "bos", "cls")
# What config.json's classifier_pooling may say; the first is the default.
_STATED = {"eurobert": ("late", "bos", "mean"), "modernbert": ("cls", "mean")}


def _mean(x: mx.array, batch: DeviceBatch) -> mx.array:
    return pool(x, batch.padded.lengths, np.zeros_like(batch.padded.lengths), ("mean",))
