"""BERT (Devlin et al. 2018, arXiv:1810.04805): learned positions, post-norm, bidirectional."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.architectures.base import Backbone, allow, read, rows_of
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.host_encoder import Embed, HostEncoder, HostTables, by_mlx
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.flat import by_row, flat, states_by_row
from akidb_mlx.model.layers.host_layers import HostLayers
from akidb_mlx.model.layers.masks import Mask, batch_mask
from akidb_mlx.model.layers.norms import norm_of_sum
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["Bert", "Embeddings", "FactorizedEmbeddings", "Positions"]


Positions = mx.array | slice
"""Where tokens stand: the same places in all rows, or an array that broadcasts to (rows, length)."""


class Embeddings(nn.Module):
    """Word + position + token type, normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make the tables."""
        super().__init__()
        self._width = width
        self.word = nn.Embedding(read(config, "vocab_size", int), width)
        self.position = nn.Embedding(read(config, "max_position_embeddings", int), width)
        self.token_type = nn.Embedding(read(config, "type_vocab_size", int), width)
        self.norm = nn.LayerNorm(width, eps)

    def __call__(self, batch: DeviceBatch, positions: Positions) -> mx.array:
        """(rows, length, width), or of one row (length, width)."""
        words = states_by_row(self.word, batch, self._width)
        return norm_of_sum(self.norm, words, self._added(batch, positions))

    def settle(self) -> None:
        """Add up what all but second texts get for their places."""
        if all(type(table) is nn.Embedding for table in self._tables()):
            self._by_position = self.by_position(slice(0, len(self.position.weight)), slice(0, 1))
            mx.eval(self._by_position)

    def by_position(self, positions: Positions, types: mx.array | slice) -> mx.array:
        """What is added to the words, of these places and token types."""
        return rows_of(self.position, positions) + rows_of(self.token_type, types)

    def _tables(self) -> list[nn.Module]:
        """Where that comes from."""
        return [self.position, self.token_type]

    def _added(self, batch: DeviceBatch, positions: Positions) -> mx.array:
        made: mx.array | None = self.get("_by_position")
        if made is None or batch.token_types is not None:
            types = slice(0, 1) if batch.token_types is None else batch.token_types
            return self.by_position(positions, types)
        fits = isinstance(positions, slice) and positions.stop <= len(made)
        return made[positions] if fits else self.by_position(positions, slice(0, 1))


class FactorizedEmbeddings(Embeddings):
    """The same in fewer channels, then a layer to the width of the others (ALBERT, small ELECTRA)."""

    def __init__(self, config: Mapping[str, Any], narrow: int, width: int, eps: float) -> None:
        """Make tables of `narrow` channels."""
        super().__init__(config, narrow, eps)
        self.project = nn.Linear(narrow, width)

    def __call__(self, batch: DeviceBatch, positions: Positions) -> mx.array:
        """(rows, length, width), or of one row (length, width)."""
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

    def positions(self, batch: DeviceBatch) -> Positions:
        """Where each token stands: from zero."""
        return slice(0, batch.length)

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
        return by_mlx(lambda batch: by_row(made(batch, self.positions(batch)), batch.rows))

    def settle(self) -> None:
        """Add up the embeddings that places decide, where no host has."""
        if self.on_host is None:
            self.embeddings.settle()

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x, mask = self._before_last(batch)
        return by_row(self.layers[-1](x, mask, rows=batch.rows), batch.rows)

    def first_states(self, batch: DeviceBatch) -> mx.array:
        """Those of each row's first token, (rows, 1, width): in the last layer the others are only seen."""
        x, mask = self._before_last(batch)
        return self.layers[-1].first(x, mask, rows=batch.rows)

    def _before_last(self, batch: DeviceBatch) -> tuple[mx.array, Mask]:
        """What the last layer gets."""
        x = flat(self.embeddings(batch, self.positions(batch)), batch)
        mask = batch_mask(batch)
        for layer in self.layers[:-1]:
            x = layer(x, mask, rows=batch.rows)
        return x, mask
