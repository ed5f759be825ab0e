"""BERT (Devlin et al. 2018, arXiv:1810.04805): learned positions, post-norm, bidirectional."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.architectures.base import Backbone, allow, read
from akidb_mlx.architectures.layers import activation, attend

__all__ = ["Bert"]


class Embeddings(nn.Module):
    """Word + position + token type (always the first), normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make the tables."""
        super().__init__()
        self.word = nn.Embedding(read(config, "vocab_size", int), width)
        self.position = nn.Embedding(read(config, "max_position_embeddings", int), width)
        self.token_type = nn.Embedding(read(config, "type_vocab_size", int), width)
        self.norm = nn.LayerNorm(width, eps)

    def __call__(self, input_ids: mx.array) -> mx.array:
        """(rows, length) → (rows, length, width)."""
        by_position = self.position(mx.arange(input_ids.shape[1])) + self.token_type(mx.array(0))
        return self.norm(self.word(input_ids) + by_position)


class Layer(nn.Module):
    """Attention, then a two-layer network, each added to its input and normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make one layer."""
        super().__init__()
        self._heads = read(config, "num_attention_heads", int)
        inner = read(config, "intermediate_size", int)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps)
        self._activation = activation(config)

    def __call__(self, x: mx.array, attention_mask: mx.array | None) -> mx.array:
        """(rows, length, width) → the same shape."""
        rows, length, width = x.shape
        head = width // self._heads
        qkv = self.qkv(x).reshape(rows, length, 3, self._heads, head).transpose(2, 0, 3, 1, 4)
        attended = attend(qkv[0], qkv[1], qkv[2], attention_mask, head**-0.5)
        x = self.attention_norm(x + self.out(attended.swapaxes(1, 2).reshape(rows, length, width)))
        return self.norm(x + self.down(self._activation(self.up(x))))


class Bert(Backbone):
    """Hidden states of the last layer."""

    ignored_weights: ClassVar[tuple[str, ...]] = (r"pooler\.", r"cls\.", r"embeddings\.position_ids$")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^bert\.", ""),
        (r"\.gamma$", ".weight"),  # names of TensorFlow days
        (r"\.beta$", ".bias"),
        (r"^embeddings\.(word|position|token_type)_embeddings\.", r"embeddings.\1."),
        (r"^embeddings\.LayerNorm\.", "embeddings.norm."),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.self\.(query|key|value)\.", r".\1."),
        (r"\.attention\.output\.dense\.", ".out."),
        (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
        (r"\.intermediate\.dense\.", ".up."),
        (r"\.output\.dense\.", ".down."),
        (r"\.output\.LayerNorm\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("query", "key", "value")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        allow(config, "position_embedding_type", ("absolute",))
        allow(config, "is_decoder", (False,))
        self.width = read(config, "hidden_size", int)
        eps = read(config, "layer_norm_eps", float)
        self.embeddings = Embeddings(config, self.width, eps)
        self.layers = [Layer(config, self.width, eps) for _ in range(read(config, "num_hidden_layers", int))]

    def __call__(self, input_ids: mx.array, attention_mask: mx.array | None) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x = self.embeddings(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return x
