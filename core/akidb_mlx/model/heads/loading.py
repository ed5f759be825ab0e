"""Facts of a head → the live head: it claims its weights, by name, before the backbone does."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.checkpoint.heads import (
    AutoEncoderHead,
    ClassificationHead,
    Dense,
    HeadFacts,
    JointHead,
    PooledHead,
    SpladeHead,
    TokenLogitHead,
    TokenVectorsHead,
    TokenWeightsHead,
)
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.heads.classifier import Classifier, classifier_layout
from akidb_mlx.model.heads.dense import DenseLayer
from akidb_mlx.model.heads.joint import Joint
from akidb_mlx.model.heads.masked_lm import claim_masked_lm
from akidb_mlx.model.heads.pooled import Pooled
from akidb_mlx.model.heads.sparse_autoencoder import AutoEncoder, Latents
from akidb_mlx.model.heads.splade import Splade
from akidb_mlx.model.heads.token_logit import TokenLogit
from akidb_mlx.model.heads.token_vectors import TokenVectors
from akidb_mlx.model.heads.token_weights import TokenWeights
from akidb_mlx.model.quantization import dequantize
from akidb_mlx.model.weights import Weights, cast_weights, fill, read_weights

__all__ = ["claim_weights", "load_head"]

# Whether the language model's head is its embedding table where config.json does not say (transformers' defaults).
_TIED = {
    "cohere": True,
    "gemma": True,
    "gemma2": True,
    "gemma3_text": True,
    "granite": False,
    "llama": False,
    "mistral": False,
    "qwen2": False,
    "qwen3": False,
}
_PARTS = ("weight", "scales", "biases")


def claim_weights(facts: HeadFacts, weights: Weights, checkpoint: ModelFacts) -> Weights:
    """Take a head's own weights out of the main file's, before the backbone claims the rest."""
    if isinstance(facts, ClassificationHead):
        return _claim_classifier(weights, checkpoint)
    if isinstance(facts, TokenLogitHead):
        return _claim_table(weights, checkpoint)
    if isinstance(facts, JointHead | TokenWeightsHead):
        return {}
    if isinstance(facts, SpladeHead):
        return claim_masked_lm(weights, checkpoint)
    dense = facts.pooled.dense if isinstance(facts, AutoEncoderHead) else facts.dense
    folded = tuple(f"{layer.name}." for layer in dense if layer.weight_file is None)
    return {key: weights.pop(key) for key in list(weights) if key.startswith(folded)}


def load_head(facts: HeadFacts, width: int, claimed: Weights, checkpoint: ModelFacts) -> Head:
    """The head over hidden states of `width` channels, with what it claimed."""
    if isinstance(facts, ClassificationHead):
        head = Classifier(checkpoint.config, width, facts.labels)
        _fill(head, claimed, checkpoint.weight_files[0], checkpoint)
        return head
    if isinstance(facts, TokenLogitHead):
        return _load_token_logit(facts, width, claimed, checkpoint)
    if isinstance(facts, JointHead):
        return Joint()
    if isinstance(facts, TokenWeightsHead):
        weights = TokenWeights(width, facts.vocabulary, facts.left_out)
        own = {f"linear.{name}": weight for name, weight in read_weights([facts.weight_file]).items()}
        _fill(weights, own, facts.weight_file, checkpoint)
        return weights
    if isinstance(facts, SpladeHead):
        splade = Splade(checkpoint.config, width, facts)
        _fill(splade.masked_lm, claimed, checkpoint.weight_files[0], checkpoint)
        return splade
    if isinstance(facts, AutoEncoderHead):
        return AutoEncoder(_load_pooled(facts.pooled, width, claimed, checkpoint), facts, _load_latents(facts))
    if isinstance(facts, TokenVectorsHead):
        dense = [_load_dense(layer, claimed, checkpoint) for layer in facts.dense]
        return TokenVectors(width, dense, normalize=facts.normalize, first=facts.first)
    return _load_pooled(facts, width, claimed, checkpoint)


def _load_pooled(facts: PooledHead, width: int, claimed: Weights, checkpoint: ModelFacts) -> Pooled:
    dense = [_load_dense(layer, claimed, checkpoint) for layer in facts.dense]
    return Pooled(width, facts.pooling, dense, whole_numbers=facts.whole_numbers)


def _load_latents(facts: AutoEncoderHead) -> Latents:
    """The encoder's weight is the decoder's too, and a file has it under one name or both, of which this one counts."""
    latents, own = Latents(facts.input_dim, facts.hidden_dim), read_weights([facts.weight_file])
    own.pop("stats_last_nonzero", None)  # of training
    encoder, decoder = (own.pop(name, None) for name in ("encoder.weight", "decoder.linear.weight"))
    weight = encoder if decoder is None else decoder
    if weight is not None:
        own["weight"] = weight
    fill(latents, {key: value.astype(mx.float32) for key, value in own.items()}, facts.weight_file)
    return latents


def _load_dense(spec: Dense, claimed: Weights, checkpoint: ModelFacts) -> DenseLayer:
    layer = DenseLayer(
        spec.in_features,
        spec.out_features,
        bias=spec.bias,
        activation=spec.activation,
        residual=spec.residual,
    )
    if spec.weight_file is not None:
        # A file of one linear layer has its names alone.
        found = read_weights([spec.weight_file])
        own = {name if "." in name else f"linear.{name}": weight for name, weight in found.items()}
    else:
        prefix = f"{spec.name}."
        own = {
            f"linear.{key.removeprefix(prefix)}": weight for key, weight in claimed.items() if key.startswith(prefix)
        }
    _fill(layer, own, spec.weight_file or checkpoint.weight_files[0], checkpoint)
    return layer


def _claim_classifier(weights: Weights, checkpoint: ModelFacts) -> Weights:
    layout = classifier_layout(checkpoint.model_type)
    claimed: Weights = {}
    for ours, theirs in (("dense", layout.dense), ("norm", layout.norm), ("out", layout.out)):
        if theirs is not None:
            pattern = re.compile(rf"(?:[a-z_]+\.)?{re.escape(theirs)}\.(\w+)")  # after the model's own name
            for key in [key for key in weights if pattern.fullmatch(key)]:
                claimed[pattern.sub(rf"{ours}.\1", key)] = weights.pop(key)
    # What else is there under its names is another head's: `fill` refuses it.
    own = {theirs.partition(".")[0] for theirs in (layout.dense, layout.norm, layout.out) if theirs is not None}
    return claimed | {key: weights.pop(key) for key in list(weights) if key.partition(".")[0] in own}


def _claim_table(weights: Weights, checkpoint: ModelFacts) -> Weights:
    """The language model's head; where it is the embedding table the backbone keeps that as well."""
    config, model_type = checkpoint.config, checkpoint.model_type
    if model_type not in _TIED:
        raise UnsupportedModelError(
            f"a language model of model_type {model_type!r} as a reranker is not supported; "
            f"supported: {', '.join(_TIED)}"
        )
    # Where the file has both, the reference reads the head, whatever config.json says of a tie.
    tied = read(config, "tie_word_embeddings", bool, _TIED[model_type]) and "lm_head.weight" not in weights
    pattern = re.compile(r"(?:model\.)?(?:embed_tokens)\.(\w+)" if tied else r"lm_head\.(\w+)")
    found = {match[1]: key for key in list(weights) if (match := pattern.fullmatch(key)) and match[1] in _PARTS}
    if "weight" not in found:
        missing = "its embedding table" if tied else "lm_head.weight, which config.json says is not the embedding table"
        raise CheckpointError(f"{checkpoint.weight_files[0]} lacks {missing}; download the checkpoint again")
    return {f"table.{part}": weights[key] if tied else weights.pop(key) for part, key in found.items()}


def _load_token_logit(facts: TokenLogitHead, width: int, claimed: Weights, checkpoint: ModelFacts) -> Head:
    tokens = [token for token in (facts.true_token_id, facts.false_token_id) if token is not None]
    most = claimed["table.weight"].shape[0]
    if not all(0 <= token < most for token in tokens):  # MLX reads beyond a table's end without a word
        raise CheckpointError(f"{checkpoint.name}: the score reads the logits of tokens {tokens}, and there are {most}")
    head = TokenLogit(width, len(tokens), scale=_logit_scale(checkpoint.config), softcap=_softcap(checkpoint.config))
    rows = {part: weight[mx.array(tokens)] for part, weight in claimed.items()}
    holder = nn.Module()
    holder.table = nn.Linear(width, len(tokens), bias=False)
    weight = dequantize(holder, rows, checkpoint.config_file)["table.weight"]
    fill(head, cast_weights({"weight": weight}, mx.float32), checkpoint.weight_files[0])
    return head


def _logit_scale(config: Mapping[str, Any]) -> float:
    """What Cohere's and Granite's logits are multiplied by."""
    if config["model_type"] == "cohere":
        return read(config, "logit_scale", float, 0.0625)
    return 1 / read(config, "logits_scaling", float, 1.0) if config["model_type"] == "granite" else 1.0


def _softcap(config: Mapping[str, Any]) -> float | None:
    """What bounds Gemma 2's and 3's logits; transformers' defaults."""
    if config["model_type"] not in ("gemma2", "gemma3_text"):
        return None
    value = config.get("final_logit_softcapping", 30.0 if config["model_type"] == "gemma2" else None)
    return None if value is None else read(config, "final_logit_softcapping", float, value)


def _fill(module: nn.Module, weights: Weights, file: Path, checkpoint: ModelFacts) -> None:
    weights = dequantize(module, weights, checkpoint.config_file)
    fill(module, cast_weights(weights, mx.float32), file)
