"""MPNet (Song et al. 2020, arXiv:2004.09297): BERT with T5's relative positions on top of learned ones."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, PositionNumbers, allow, read, rows_of
from akidb_mlx.model.architectures.roberta import places_after_padding
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.flat import by_row, flat, states_by_row
from akidb_mlx.model.layers.norms import norm_of_sum
from akidb_mlx.model.layers.post_norm import PostNormLayer
from akidb_mlx.model.layers.relative import bias_numbers, make_bias

__all__ = ["MPNet"]

_BUCKETS = 32
_MAX_DISTANCE = 128
_PADDING = 1  # positions start after it, whatever pad_token_id says


class MPNet(Backbone):
    """Hidden states of the last layer."""

    ignored_weights: ClassVar[tuple[str, ...]] = (r"embeddings\.position_ids$",)
    head_weights: ClassVar[tuple[str, ...]] = (r"pooler\.", r"lm_head\.", r"classifier\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^mpnet\.", ""),
        (r"^embeddings\.(word|position)_embeddings\.", r"\1."),
        (r"^embeddings\.LayerNorm\.", "norm."),
        (r"^encoder\.relative_attention_bias\.", "relative."),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.attn\.o\.", ".attention.out."),
        (r"\.attention\.attn\.", ".attention."),
        (r"\.attention\.LayerNorm\.", ".attention_norm."),
        (r"\.intermediate\.dense\.", ".up."),
        (r"\.output\.dense\.", ".down."),
        (r"\.output\.LayerNorm\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("q", "k", "v")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        allow(config, "relative_attention_num_buckets", (_BUCKETS,))
        self.width = read(config, "hidden_size", int)
        eps = read(config, "layer_norm_eps", float)
        heads, inner = read(config, "num_attention_heads", int), read(config, "intermediate_size", int)
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        self.position = nn.Embedding(read(config, "max_position_embeddings", int), self.width)
        self.norm = nn.LayerNorm(self.width, eps)
        self.relative = nn.Embedding(_BUCKETS, heads)
        self.layers = [
            PostNormLayer(self.width, heads, inner, activation(config), eps)
            for _ in range(read(config, "num_hidden_layers", int))
        ]

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        words = states_by_row(self.word, batch, self.width)
        places = rows_of(self.position, places_after_padding(batch, _PADDING))
        x = flat(norm_of_sum(self.norm, words, places), batch)
        bias = make_bias(self.relative, batch.length, _BUCKETS, _MAX_DISTANCE, batch.attention_mask)
        for layer in self.layers:
            x = layer(x, bias, rows=batch.rows)
        return by_row(x, batch.rows)

    def position_numbers(self) -> PositionNumbers:
        """What says how many numbers are kept of what is added to the scores."""
        return bias_numbers
