"""ALBERT (Lan et al. 2019, arXiv:1909.11942): BERT whose layers share weights, and whose tables are narrower."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import Backbone, allow, read
from akidb_mlx.model.architectures.bert import FactorizedEmbeddings
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.host_encoder import HostEncoder, by_mlx
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.flat import by_row, flat
from akidb_mlx.model.layers.host_layers import HostLayers
from akidb_mlx.model.layers.masks import Mask, batch_mask
from akidb_mlx.model.layers.post_norm import PostNormLayer

__all__ = ["Albert"]


class Albert(Backbone):
    """Hidden states of the last layer."""

    ignored_weights: ClassVar[tuple[str, ...]] = (r"embeddings\.position_ids$",)
    head_weights: ClassVar[tuple[str, ...]] = (r"pooler\.", r"predictions\.", r"sop_classifier\.", r"classifier\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^albert\.", ""),
        (r"^embeddings\.(word|position|token_type)_embeddings\.", r"embeddings.\1."),
        (r"^embeddings\.LayerNorm\.", "embeddings.norm."),
        (r"^encoder\.embedding_hidden_mapping_in\.", "embeddings.project."),
        (r"^encoder\.albert_layer_groups\.(\d+)\.albert_layers\.", r"groups.\1."),
        (r"\.attention\.dense\.", ".attention.out."),
        (r"\.attention\.LayerNorm\.", ".attention_norm."),
        (r"\.ffn\.", ".up."),
        (r"\.ffn_output\.", ".down."),
        (r"\.full_layer_layer_norm\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("query", "key", "value")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        allow(
            config, "position_embedding_type", ("absolute", "relative_key", "relative_key_query", None)
        )  # read by nobody
        self.width = read(config, "hidden_size", int)
        eps = read(config, "layer_norm_eps", float)
        heads, inner = read(config, "num_attention_heads", int), read(config, "intermediate_size", int)
        self._count, groups = read(config, "num_hidden_layers", int), read(config, "num_hidden_groups", int)
        if not 1 <= groups <= self._count:
            raise CheckpointError(f"config.json: {self._count} layers cannot be of {groups} groups")
        self.embeddings = FactorizedEmbeddings(config, read(config, "embedding_size", int), self.width, eps)
        self.groups = [
            [
                PostNormLayer(self.width, heads, inner, activation(config), eps)
                for _ in range(read(config, "inner_group_num", int))
            ]
            for _ in range(groups)
        ]

    @property
    def layers(self) -> list[PostNormLayer]:
        """The layers in the order in which they are computed, the same ones again and again."""
        return [layer for index in range(self._count) for layer in self.groups[self._group(index)]]

    def _group(self, index: int) -> int:
        """Whose turn it is: the groups share the count evenly."""
        return int(index / (self._count / len(self.groups)))

    def settle_on_cpu(self) -> None:
        """Have NumPy and the BLAS compute where that serves."""
        layers = HostLayers.of(self.layers)
        if layers is not None:
            embed = by_mlx(lambda batch: by_row(self.embeddings(batch, slice(0, batch.length)), batch.rows))
            self.on_host = HostEncoder(embed, layers)

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
        x = flat(self.embeddings(batch, slice(0, batch.length)), batch)
        mask = batch_mask(batch)
        for layer in self.layers[:-1]:
            x = layer(x, mask, rows=batch.rows)
        return x, mask
