"""JinaBERT (Günther et al. 2023, arXiv:2310.19923): BERT with ALiBi in place of positions, and gated networks.

config.json does not tell its three kinds of layers apart; the weights do.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, PositionNumbers, allow, read, token_type_rows
from akidb_mlx.model.architectures.bert import Bert
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.alibi import alibi_bias, alibi_numbers, alibi_slopes
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.feedforward import GatedMLP
from akidb_mlx.model.layers.norms import norm_of_sum
from akidb_mlx.model.layers.relative import LongBias

__all__ = ["JinaBert"]

# Network → what its gate goes through; the first has none.
_GATES = {"original": "", "geglu": "gelu", "reglu": "relu"}


class PlainMLP(nn.Module):
    """BERT's network."""

    def __init__(self, config: Mapping[str, Any], width: int, inner: int) -> None:
        """Make it with `inner` channels between."""
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self._activation = activation(config)

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(lambda x: self.down(self._activation(self.up(x))), x)


class Layer(nn.Module):
    """Attention, then a network, each added to its input and normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make one layer of the plain kind."""
        super().__init__()
        inner, gate = read(config, "intermediate_size", int), _GATES[read(config, "feed_forward_type", str)]
        self.attention = SelfAttention(width, read(config, "num_attention_heads", int))
        self.attention_norm = nn.LayerNorm(width, eps)
        self.mlp = (
            GatedMLP(width, inner, activation({"hidden_act": gate}), bias=False, down_bias=True)
            if gate
            else PlainMLP(config, width, inner)
        )
        self.norm = nn.LayerNorm(width, eps)

    def __call__(self, x: mx.array, bias: LongBias) -> mx.array:
        """(rows, length, width) → the same shape."""
        return self.attention(x, bias, then=self._then)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        h = norm_of_sum(self.attention_norm, self.attention.out(attended), x)
        if "second_norm" in self:  # the models for code add their input once more
            h = norm_of_sum(self.second_norm, h, x)
        return norm_of_sum(self.norm, h, self.mlp(h))


class JinaBert(Backbone):
    """Hidden states of the last layer."""

    head_weights: ClassVar[tuple[str, ...]] = Bert.head_weights
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^bert\.", ""),
        (r"^embeddings\.(word|token_type)_embeddings\.", r"\1."),
        (r"^embeddings\.LayerNorm\.", "norm."),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.self\.layer_norm_q\.", ".attention.query_norm."),
        (r"\.attention\.self\.layer_norm_k\.", ".attention.key_norm."),
        (r"\.attention\.self\.", ".attention."),
        (r"\.attention\.output\.dense\.", ".attention.out."),
        (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
        (r"\.intermediate\.dense\.", ".mlp.up."),
        (r"\.output\.dense\.", ".mlp.down."),
        (r"\.output\.LayerNorm\.", ".norm."),
        (r"\.mlp\.gated_layers\.", ".mlp.gate_up."),
        (r"\.mlp\.wo\.", ".mlp.down."),
        (r"\.mlp\.layernorm\.", ".norm."),
        (r"\.mlp\.down_layer\.", ".mlp.down."),
        (r"\.layer_norm_1\.", ".second_norm."),
        (r"\.layer_norm_2\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("query", "key", "value")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes, its layers of the plain kind."""
        super().__init__()
        allow(config, "position_embedding_type", ("alibi",))
        allow(config, "feed_forward_type", tuple(_GATES))
        allow(config, "is_decoder", (False,))
        allow(config, "add_cross_attention", (False,))
        read(config, "feed_forward_type", str)
        self.width, self._eps = read(config, "hidden_size", int), read(config, "layer_norm_eps", float)
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        self.token_type = nn.Embedding(read(config, "type_vocab_size", int), self.width)
        self.norm = nn.LayerNorm(self.width, self._eps)
        self.layers = [Layer(config, self.width, self._eps) for _ in range(read(config, "num_hidden_layers", int))]
        self._slopes = alibi_slopes(read(config, "num_attention_heads", int))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; the layers become of the kind that has such weights."""
        weights = super().sanitize(weights)
        for index, layer in enumerate(self.layers):
            parent = f"layers.{index}"
            if f"{parent}.attention.query_norm.weight" in weights:
                layer.attention.add_norms(self.width, self._eps)
            if f"{parent}.second_norm.weight" in weights:
                layer.second_norm = nn.LayerNorm(self.width, self._eps)
        # The models for code have the gate in the second half.
        return {
            key.replace(".up_gated_layer.", ".gate_up."): _swap_halves(part) if ".up_gated_layer." in key else part
            for key, part in weights.items()
        }

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x = self.norm(self.word(batch.input_ids) + token_type_rows(self.token_type, batch))
        bias = alibi_bias(self._slopes, batch.input_ids.shape[1], batch.attention_mask, x.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def position_numbers(self) -> PositionNumbers:
        """What says how many numbers are kept of what is added to the scores."""
        return alibi_numbers


def _swap_halves(part: mx.array) -> mx.array:
    first, second = mx.split(part, 2, axis=0)
    return mx.concatenate([second, first], axis=0)
