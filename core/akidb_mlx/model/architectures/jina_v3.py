"""Jina's XLM-R with rotary positions (Sturua et al. 2024, arXiv:2409.10173): jina-embeddings-v3, jina-colbert-v2."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, allow, read, token_type_rows
from akidb_mlx.model.architectures.roberta import JINAS_RENAMES
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.flat import by_row, word_states
from akidb_mlx.model.layers.masks import batch_mask
from akidb_mlx.model.layers.post_norm import PostNormLayer
from akidb_mlx.model.layers.rope import make_rope, rope_parameters

__all__ = ["JinaV3"]


class JinaV3(Backbone):
    """Hidden states of the last layer."""

    head_weights: ClassVar[tuple[str, ...]] = (r"pooler\.", r"lm_head\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *JINAS_RENAMES,
        (r"^embeddings\.(word|token_type)_embeddings\.", r"\1."),
        (r"^embeddings\.LayerNorm\.", "norm."),
        # The names of transformers' modules, which an adapter's file has.
        (r"\.self_attn\.o_proj\.", ".attention.out."),
        (r"\.self_attn\.", ".attention."),
        (r"\.post_attention_layernorm\.", ".attention_norm."),
        (r"\.post_mlp_layernorm\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("q_proj", "k_proj", "v_proj")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        allow(config, "position_embedding_type", ("rotary",))
        self.width = read(config, "hidden_size", int)
        eps, inner = read(config, "layer_norm_eps", float), read(config, "intermediate_size", int)
        heads = read(config, "num_attention_heads", int)
        allow(config, "head_dim", (None, self.width // heads))
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        self.token_type = nn.Embedding(read(config, "type_vocab_size", int), self.width)
        self.norm = nn.LayerNorm(self.width, eps)
        self.layers = [
            PostNormLayer(self.width, heads, inner, activation(config), eps)
            for _ in range(read(config, "num_hidden_layers", int))
        ]
        self._rope = make_rope(self.width // heads, rope_parameters(config, whole=True))

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x = word_states(self.word, batch, self.width)
        x = self.norm(x + token_type_rows(self.token_type, batch, flat=x.ndim == 2))
        mask = batch_mask(batch)
        for layer in self.layers:
            x = layer(x, mask, self._rope, rows=batch.rows)
        return by_row(x, batch.rows)
