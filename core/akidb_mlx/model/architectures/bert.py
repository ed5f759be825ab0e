"""BERT (Devlin et al. 2018, arXiv:1810.04805): learned positions, post-norm, bidirectional."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.architectures.base import Backbone, allow, read, token_type_rows
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.host_encoder import Embed, HostEncoder, HostTables, by_mlx
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.host_layers import HostLayers
from akidb_mlx.model.layers.masks import Mask, make_mask
from akidb_mlx.model.layers.norms import norm_of_sum
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["Bert", "Embeddings", "FactorizedEmbeddings"]


class Embeddings(nn.Module):
    """Word + position + token type, normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make the tables."""
        super().__init__()
        self.word = nn.Embedding(read(config, "vocab_size", int), width)
        self.position = nn.Embedding(read(config, "max_position_embeddings", int), width)
        self.token_type = nn.Embedding(read(config, "type_vocab_size", int), width)
        self.norm = nn.LayerNorm(width, eps)

    def __call__(self, batch: DeviceBatch, positions: mx.array) -> mx.array:
        """Positions that broadcast to (rows, length) → (rows, length, width)."""
        return norm_of_sum(self.norm, self.word(batch.input_ids), self.by_position(batch, positions))

    def by_position(self, batch: DeviceBatch, positions: mx.array) -> mx.array:
        """What is added to the words."""
        added: mx.array = self.position(positions) + token_type_rows(self.token_type, batch)
        return added


class FactorizedEmbeddings(Embeddings):
    """The same in fewer channels, then a layer to the width of the others (ALBERT, small ELECTRA)."""

    def __init__(self, config: Mapping[str, Any], narrow: int, width: int, eps: float) -> None:
        """Make tables of `narrow` channels."""
        super().__init__(config, narrow, eps)
        self.project = nn.Linear(narrow, width)

    def __call__(self, batch: DeviceBatch, positions: mx.array) -> mx.array:
        """Positions that broadcast to (rows, length) → (rows, length, width)."""
        projected: mx.array = self.project(super().__call__(batch, positions))
        return projected


class Bert(Backbone):
    """Hidden states of the last layer."""

    ignored_weights: ClassVar[tuple[str, ...]] = (r"embeddings\.position_ids$",)
    head_weights: ClassVar[tuple[str, ...]] = (r"pooler\.", r"cls\.", r"classifier\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^bert\.", ""),
        (r"\.gamma$", ".weight"),  # names of TensorFlow days
        (r"\.beta$", ".bias"),
        (r"^embeddings\.(word|position|token_type)_embeddings\.", r"embeddings.\1."),
        (r"^embeddings\.LayerNorm\.", "embeddings.norm."),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.self\.", ".attention."),
        (r"\.attention\.output\.dense\.", ".attention.out."),
        (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
        (r"\.intermediate\.dense\.", ".up."),
        (r"\.output\.dense\.", ".down."),
        (r"\.output\.LayerNorm\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("query", "key", "value")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        # transformers 5 has absolute positions alone and ignores what else a file says, but for ALiBi's own class.
        allow(config, "position_embedding_type", ("absolute", "relative_key", "relative_key_query", None))
        allow(config, "is_decoder", (False,))
        allow(config, "add_cross_attention", (False,))
        self.width = read(config, "hidden_size", int)
        eps = read(config, "layer_norm_eps", float)
        heads, inner = read(config, "num_attention_heads", int), read(config, "intermediate_size", int)
        self.embeddings = self.make_embeddings(config, eps)
        self.layers = [
            PostNormLayer(self.width, heads, inner, activation(config), eps)
            for _ in range(read(config, "num_hidden_layers", int))
        ]

    def make_embeddings(self, config: Mapping[str, Any], eps: float) -> Embeddings:
        """What comes before the layers."""
        return Embeddings(config, self.width, eps)

    def positions(self, input_ids: mx.array) -> mx.array:
        """Where each token stands: from zero."""
        return mx.arange(input_ids.shape[1])

    def host_positions(self, input_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """`positions`, for arrays of the host."""
        return np.arange(input_ids.shape[1], dtype=np.int32)

    def settle_on_cpu(self) -> None:
        """Have NumPy and the BLAS compute where that serves."""
        layers = HostLayers.of(self.layers)
        if layers is not None:
            self.on_host = HostEncoder(self._host_embeddings(), layers)

    def _host_embeddings(self) -> Embed:
        made = self.embeddings
        if type(made) is Embeddings and HostTables.take(made.word, made.position, made.token_type):
            return HostTables(made.word, made.position, made.token_type, made.norm, self.host_positions)
        return by_mlx(lambda batch: made(batch, self.positions(batch.input_ids)))

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x, mask = self._before_last(batch)
        return self.layers[-1](x, mask)

    def first_states(self, batch: DeviceBatch) -> mx.array:
        """Those of each row's first token, (rows, 1, width): in the last layer the others are only seen."""
        x, mask = self._before_last(batch)
        return self.layers[-1].first(x, mask)

    def _before_last(self, batch: DeviceBatch) -> tuple[mx.array, Mask]:
        """What the last layer gets."""
        x = self.embeddings(batch, self.positions(batch.input_ids))
        mask = make_mask(batch.attention_mask, batch.input_ids.shape[1])
        for layer in self.layers[:-1]:
            x = layer(x, mask)
        return x, mask
