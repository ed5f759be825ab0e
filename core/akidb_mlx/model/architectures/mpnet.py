"""MPNet (Song et al. 2020, arXiv:2004.09297): BERT with T5's relative positions on top of learned ones."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from akidb_mlx.model.architectures.base import Backbone, allow, read
from akidb_mlx.model.architectures.roberta import positions_after_padding
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.post_norm import PostNormLayer

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
        length = batch.input_ids.shape[1]
        positions = positions_after_padding(batch.input_ids, _PADDING)
        x = self.norm(self.word(batch.input_ids) + self.position(positions))
        bias = self.relative(mx.array(_buckets(length))).transpose(2, 0, 1)[None]
        if batch.attention_mask is not None:
            # Every row keeps real tokens, hence itself: -inf leaves no empty row here.
            bias = mx.where(batch.attention_mask[:, None, None, :], bias, mx.array(-mx.inf, bias.dtype))
        for layer in self.layers:
            x = layer(x, bias)
        return x


def _buckets(length: int) -> "np.ndarray[Any, np.dtype[np.int32]]":
    """(length, length) bucket of each distance: half of them for each side, exact up to 8, then logarithmic."""
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    half = _BUCKETS // 2
    exact = half // 2
    far = np.abs(distance)
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / exact) / np.float32(math.log(_MAX_DISTANCE / exact))
    logarithmic = np.minimum(exact + (ratio * (half - exact)).astype(np.int32), half - 1)
    return (np.where(far < exact, far, logarithmic) + np.where(distance < 0, half, 0)).astype(np.int32)
