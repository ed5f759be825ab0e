"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): BERT with half the layers and no token types."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from akidb_mlx.model.architectures.base import Backbone, read, rows_of
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.host_encoder import HostEncoder, HostTables
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.flat import by_row, flat, states_by_row
from akidb_mlx.model.layers.host_layers import HostLayers
from akidb_mlx.model.layers.masks import batch_mask
from akidb_mlx.model.layers.norms import norm_of_sum
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["DistilBert"]

_EPS = 1e-12


class DistilBert(Backbone):
    """Hidden states of the last layer."""

    ignored_weights: ClassVar[tuple[str, ...]] = (r"embeddings\.position_ids$",)
    head_weights: ClassVar[tuple[str, ...]] = (r"vocab_", r"pre_classifier\.", r"classifier\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^distilbert\.", ""),
        (r"^embeddings\.(word|position)_embeddings\.", r"\1."),
        (r"^embeddings\.LayerNorm\.", "norm."),
        (r"^transformer\.layer\.", "layers."),
        (r"\.attention\.out_lin\.", ".attention.out."),
        (r"\.sa_layer_norm\.", ".attention_norm."),
        (r"\.ffn\.lin1\.", ".up."),
        (r"\.ffn\.lin2\.", ".down."),
        (r"\.output_layer_norm\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("q_lin", "k_lin", "v_lin")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        self.width = read(config, "dim", int)
        heads, inner = read(config, "n_heads", int), read(config, "hidden_dim", int)
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        # Sinusoids, where config.json asks for them, are stored as weights all the same.
        self.position = nn.Embedding(read(config, "max_position_embeddings", int), self.width)
        self.norm = nn.LayerNorm(self.width, _EPS)
        self.layers = [
            PostNormLayer(self.width, heads, inner, activation(config, "activation"), _EPS)
            for _ in range(read(config, "n_layers", int))
        ]

    def settle_on_cpu(self) -> None:
        """Have NumPy and the BLAS compute where that serves."""
        layers = HostLayers.of(self.layers)
        if layers is not None and HostTables.take(self.word, self.position):
            tables = HostTables(
                self.word, self.position, None, self.norm, lambda ids: np.arange(ids.shape[1], dtype=np.int32)
            )
            self.on_host = HostEncoder(tables, layers)

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        words = states_by_row(self.word, batch, self.width)
        x = flat(norm_of_sum(self.norm, words, rows_of(self.position, slice(0, batch.length))), batch)
        mask = batch_mask(batch)
        for layer in self.layers:
            x = layer(x, mask, rows=batch.rows)
        return by_row(x, batch.rows)
