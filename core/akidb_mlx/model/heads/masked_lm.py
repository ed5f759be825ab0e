"""The layers of transformers' ForMaskedLM: hidden states → a logit for each entry of the vocabulary.

Layers and names are those of transformers 5.24's modelling code, by `model_type`, and of GTE's published files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.weights import Weights

__all__ = ["MASKED_LMS", "MaskedLM", "MaskedLMLayout", "claim_masked_lm", "masked_lm_layout"]


@dataclass(frozen=True)
class MaskedLMLayout:
    """Which layers one architecture's head has, and how its files call them."""

    dense: str
    norm: tuple[str, ...]
    """Names that files have it under."""
    decoder: str
    bias: str | None = None
    """Where the decoder's bias is, when it is not beside its weight."""
    activation: str | None = None
    """config.json's key of the activation after `dense`; None: exact GELU, whatever it says."""
    eps: str | float = "layer_norm_eps"
    """config.json's key of the norm's epsilon, or the number."""
    optional_bias: bool = False
    """Whether config.json says which layers have one (ModernBERT's classifier_bias, norm_bias and decoder_bias)."""

    @property
    def own(self) -> tuple[str, ...]:
        """What the names of all its weights begin with."""
        layers = [*self.norm, self.dense, self.decoder, *([] if self.bias is None else [self.bias])]
        return tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in layers))


_LM_HEAD = MaskedLMLayout("lm_head.dense", ("lm_head.layer_norm",), "lm_head.decoder", "lm_head.bias")
_GTE_NORMS = ("lm_head.layer_norm", "lm_head.norm")
MASKED_LMS: Mapping[str, MaskedLMLayout] = {
    "bert": MaskedLMLayout(
        "cls.predictions.transform.dense",
        ("cls.predictions.transform.LayerNorm",),
        "cls.predictions.decoder",
        "cls.predictions.bias",
        activation="hidden_act",
    ),
    "camembert": _LM_HEAD,
    "distilbert": MaskedLMLayout(
        "vocab_transform", ("vocab_layer_norm",), "vocab_projector", activation="activation", eps=1e-12
    ),
    "gte": MaskedLMLayout("lm_head.dense", _GTE_NORMS, "lm_head.decoder"),
    "modernbert": MaskedLMLayout(
        "head.dense", ("head.norm",), "decoder", activation="classifier_activation", eps="norm_eps", optional_bias=True
    ),
    "mpnet": _LM_HEAD,
    "new": MaskedLMLayout("lm_head.dense", _GTE_NORMS, "lm_head.decoder", activation="hidden_act"),
    "roberta": _LM_HEAD,
    "xlm-roberta": _LM_HEAD,
}
_TABLE = re.compile(r"(?:[a-z_]+\.)?embeddings\.(?:word|tok)_embeddings\.(weight|scales|biases)")
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of TensorFlow days


def masked_lm_layout(model_type: str) -> MaskedLMLayout:
    """How an architecture gives logits; UnsupportedModelError where no reference has verified that here."""
    if model_type not in MASKED_LMS:
        raise UnsupportedModelError(
            f"a masked language model of model_type {model_type!r} as a sparse encoder is not supported; "
            f"supported: {', '.join(MASKED_LMS)}"
        )
    return MASKED_LMS[model_type]


class MaskedLM(nn.Module):
    """A dense layer, a norm, and the decoder, whose weight may be the table of word embeddings."""

    def __init__(self, config: Mapping[str, Any], width: int) -> None:
        """Make the layers with weights still to be loaded."""
        super().__init__()
        layout = masked_lm_layout(config["model_type"])

        def has_bias(key: str, default: bool) -> bool:
            return not layout.optional_bias or read(config, key, bool, default)

        eps = layout.eps if isinstance(layout.eps, float) else read(config, layout.eps, float)
        self.vocabulary = read(config, "vocab_size", int)
        self.dense = nn.Linear(width, width, bias=has_bias("classifier_bias", False))
        name = "gelu" if layout.activation is None else config.get(layout.activation, "gelu")
        self._activation = activation({"hidden_act": name})
        self.norm = nn.LayerNorm(width, eps, bias=has_bias("norm_bias", False))
        self.decoder = nn.Linear(width, self.vocabulary, bias=has_bias("decoder_bias", True))

    def transform(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape: what the decoder reads."""
        normed: mx.array = self.norm(self._activation(self.dense(x)))
        return normed


def claim_masked_lm(weights: Weights, checkpoint: ModelFacts) -> Weights:
    """The head's weights, taken out of `weights`; a tied decoder's is the table, which the backbone keeps as well.

    Where the file has a decoder beside the table, the reference reads that, whatever config.json says of a tie.
    """
    layout = masked_lm_layout(checkpoint.model_type)
    tied = read(checkpoint.config, "tie_word_embeddings", bool, True)
    found: Weights = {}
    places = {layout.dense: "dense", **dict.fromkeys(layout.norm, "norm"), layout.decoder: "decoder"}
    own = tuple(f"{name}." for name in layout.own)
    for key in [key for key in weights if key.startswith(own) and key != layout.bias]:
        layer, _, part = key.rpartition(".")
        name = f"{places[layer]}.{_OLD_NAMES.get(part, part)}" if layer in places else key
        found[name] = weights.pop(key)
    if layout.bias is not None and layout.bias in weights:
        bias = weights.pop(layout.bias)  # another than decoder.bias only where nothing is tied: then nobody reads it
        if tied:
            found.setdefault("decoder.bias", bias)
    if "decoder.weight" in found:
        return found
    if not tied:
        raise CheckpointError(
            f"{checkpoint.weight_files[0]} lacks {layout.decoder}.weight, which config.json says is not the table of "
            "word embeddings; download the checkpoint again"
        )
    table = {match[1]: key for key in weights if (match := _TABLE.fullmatch(key))}
    if "weight" not in table:
        raise CheckpointError(f"{checkpoint.weight_files[0]} lacks its table of word embeddings; download it again")
    return found | {f"decoder.{part}": weights[key] for part, key in table.items()}
