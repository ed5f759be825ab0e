"""GTE v1.5 and multilingual (Zhang et al. 2024, arXiv:2407.19669): model_type `new`, in transformers 5 `gte`."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, allow, read, token_type_rows
from akidb_mlx.model.architectures.nomic_bert import RotaryPostNormLayer
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.feedforward import GatedMLP
from akidb_mlx.model.layers.flat import by_row, word_states
from akidb_mlx.model.layers.masks import batch_mask
from akidb_mlx.model.layers.rope import make_rope, rope_parameters

__all__ = ["Gte"]


class Gte(Backbone):
    """Hidden states of the last layer."""

    head_weights: ClassVar[tuple[str, ...]] = (r"pooler\.", r"lm_head\.", r"classifier\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^(new|gte)\.", ""),
        (r"^embeddings\.(word|token_type)_embeddings\.", r"\1."),
        (r"^embeddings\.LayerNorm\.", "norm."),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.qkv_proj\.", ".attention.qkv."),
        (r"\.attention\.o_proj\.", ".attention.out."),
        (r"\.attn_ln\.", ".attention_norm."),
        (r"\.mlp\.up_gate_proj\.", ".mlp.gate_up."),
        (r"\.mlp\.down_proj\.", ".mlp.down."),
        (r"\.mlp_ln\.", ".norm."),
    )

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        allow(config, "position_embedding_type", ("rope",))
        allow(config, "layer_norm_type", ("layer_norm",))
        allow(config, "pack_qkv", (True,))
        allow(config, "logn_attention_scale", (False,))
        self.width = read(config, "hidden_size", int)
        eps, inner = read(config, "layer_norm_eps", float), read(config, "intermediate_size", int)
        heads = read(config, "num_attention_heads", int)
        allow(config, "head_dim", (None, self.width // heads))
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        types = read(config, "type_vocab_size", int)
        if types:
            self.token_type = nn.Embedding(types, self.width)
        self.norm = nn.LayerNorm(self.width, eps)
        act = activation(config)
        self.layers = [
            RotaryPostNormLayer(self.width, heads, network, eps, attention_bias=True)
            for network in (
                GatedMLP(self.width, inner, act, bias=False, down_bias=True)
                for _ in range(read(config, "num_hidden_layers", int))
            )
        ]
        self._rope = make_rope(self.width // heads, rope_parameters(config, whole=True))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; it has `up` before `gate`."""
        weights = super().sanitize(weights)
        for name in [name for name in weights if ".mlp.gate_up." in name]:
            weights[name] = mx.concatenate([*reversed(mx.split(weights[name], 2))])
        return weights

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x = word_states(self.word, batch, self.width)
        if "token_type" in self:
            x = x + token_type_rows(self.token_type, batch, flat=x.ndim == 2)
        x = self.norm(x)
        mask = batch_mask(batch)
        for layer in self.layers:
            x = layer(x, mask, self._rope, rows=batch.rows)
        return by_row(x, batch.rows)
