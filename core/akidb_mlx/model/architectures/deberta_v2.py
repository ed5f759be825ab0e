"""DeBERTa-v2 and -v3 (He et al. 2020 and 2021, arXiv:2006.03654 and 2111.09543): disentangled attention, post-norm."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.base import Backbone, PositionNumbers, allow, no_positions, read, token_type_rows
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.disentangled import (
    DisentangledAttention,
    RelativePositions,
    deberta_buckets,
    position_numbers,
)
from akidb_mlx.model.layers.neighbours import NeighbourLayer
from akidb_mlx.model.layers.norms import norm_of_sum

__all__ = ["DebertaV2", "attention_kinds", "head_width"]


class DebertaEmbeddings(nn.Module):
    """Word, and position and token type where the model has them, normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make the tables."""
        super().__init__()
        narrow = read(config, "embedding_size", int, width)
        self.word = nn.Embedding(read(config, "vocab_size", int), narrow)
        if read(config, "position_biased_input", bool):
            self.position = nn.Embedding(read(config, "max_position_embeddings", int), narrow)
        if read(config, "type_vocab_size", int):
            self.token_type = nn.Embedding(read(config, "type_vocab_size", int), narrow)
        if narrow != width:
            self.project = nn.Linear(narrow, width, bias=False)
        self.norm = nn.LayerNorm(width, eps)

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """(rows, length, width)."""
        x = self.word(batch.input_ids)
        if "position" in self:
            x = x + self.position(mx.arange(x.shape[1]))
        if "token_type" in self:
            x = x + token_type_rows(self.token_type, batch)
        normed: mx.array = self.norm(self.project(x) if "project" in self else x)
        return normed


class DebertaLayer(nn.Module):
    """Attention, then a two-layer network, each added to its input and normed."""

    def __init__(self, config: Mapping[str, Any], attention: DisentangledAttention, width: int, eps: float) -> None:
        """Make one layer around its attention."""
        super().__init__()
        inner = read(config, "intermediate_size", int)
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps)
        self._activation = activation(config)

    def __call__(self, x: mx.array, positions: RelativePositions) -> mx.array:
        """(rows, length, width) → the same shape."""
        return self.attention(x, positions, self._then)

    def first(self, x: mx.array, positions: RelativePositions) -> mx.array:
        """(rows, length, width) → (rows, 1, width): what it makes of each row's first token."""
        return self.attention(x, positions, self._then, first_only=True)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        x = norm_of_sum(self.attention_norm, x, attended)
        return norm_of_sum(self.norm, x, cpu_kernels.in_blocks(self._network, x))

    def _network(self, x: mx.array) -> mx.array:
        return self.down(self._activation(self.up(x)))


class DebertaV2(Backbone):
    """Hidden states of the last layer."""

    ignored_weights: ClassVar[tuple[str, ...]] = (r"embeddings\.position_ids$",)
    head_weights: ClassVar[tuple[str, ...]] = (
        r"pooler\.",
        r"classifier\.",
        r"cls\.",
        r"(lm|mask)_predictions\.",
    )
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^deberta\.", ""),
        (r"\.gamma$", ".weight"),
        (r"\.beta$", ".bias"),
        (r"^embeddings\.(word|position|token_type)_embeddings\.", r"embeddings.\1."),
        (r"^embeddings\.embed_proj\.", "embeddings.project."),
        (r"^embeddings\.LayerNorm\.", "embeddings.norm."),
        (r"^encoder\.rel_embeddings\.", "relative."),
        (r"^encoder\.LayerNorm\.", "relative_norm."),
        (r"^encoder\.conv\.conv\.", "neighbours.conv."),
        (r"^encoder\.conv\.LayerNorm\.", "neighbours.norm."),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.self\.pos_key_proj\.", ".attention.position_key."),
        (r"\.attention\.self\.pos_query_proj\.", ".attention.position_query."),
        (r"\.attention\.self\.", ".attention."),
        (r"\.attention\.output\.dense\.", ".attention.out."),
        (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
        (r"\.intermediate\.dense\.", ".up."),
        (r"\.output\.dense\.", ".down."),
        (r"\.output\.LayerNorm\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("query_proj", "key_proj", "value_proj")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        self.width = read(config, "hidden_size", int)
        eps = read(config, "layer_norm_eps", float)
        self.embeddings = DebertaEmbeddings(config, self.width, eps)
        self._relative = read(config, "relative_attention", bool)
        if self._relative:
            self._farthest = _farthest(config)
            self._buckets = self.buckets(config)
            self._span = self._buckets or self._farthest
            self.relative = nn.Embedding(2 * self._span, self.width)
        norms = self.norms(config)
        if "layer_norm" in norms:
            self.relative_norm = nn.LayerNorm(self.width, eps)
        self.layers = [
            DebertaLayer(config, self.make_attention(config), self.width, eps)
            for _ in range(read(config, "num_hidden_layers", int))
        ]
        kernel = self.kernel(config)
        if kernel:
            groups, name = read(config, "conv_groups", int, 1), read(config, "conv_act", str, "tanh")
            act = mx.tanh if name == "tanh" else activation({"conv_act": name}, "conv_act")
            self.neighbours = NeighbourLayer(self.width, kernel, groups, act, eps)

    def buckets(self, config: Mapping[str, Any]) -> int:
        """How many distances to each side the table tells apart, 0 for each its own."""
        return max(0, read(config, "position_buckets", int, -1))

    def norms(self, config: Mapping[str, Any]) -> list[str]:
        """What the table of relative positions goes through."""
        names = [name.strip() for name in read(config, "norm_rel_ebd", str, "none").lower().split("|")]
        if not {"none", "layer_norm"}.issuperset(names):
            raise UnsupportedModelError(
                f"config.json: norm_rel_ebd is {'|'.join(names)!r}; supported: layer_norm, none"
            )
        return names

    def kernel(self, config: Mapping[str, Any]) -> int:
        """Tokens of the convolution; 0 for none."""
        kernel = max(0, read(config, "conv_kernel_size", int, 0))
        if kernel and kernel % 2 == 0:
            raise CheckpointError(f"config.json: conv_kernel_size is {kernel}; it must be odd")
        return kernel

    def make_attention(self, config: Mapping[str, Any]) -> DisentangledAttention:
        """One layer's."""
        heads, kinds = read(config, "num_attention_heads", int), attention_kinds(config)
        head = head_width(self.width, heads)
        allow(config, "attention_head_size", (head,))  # the reference's next layer takes no other
        return DisentangledAttention(
            self.width,
            heads,
            head,
            kinds if self._relative else (),
            terms=1 + len(set(kinds)),
            shared=read(config, "share_att_key", bool, False),
            key_bias=True,
        )

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; a table of positions may be there that nobody reads."""
        weights = super().sanitize(weights)
        for part in ("weight", "scales", "biases"):
            if "position" not in self.embeddings:
                weights.pop(f"embeddings.position.{part}", None)
        if "neighbours.conv.weight" in weights:  # (out, in, tokens) in torch
            weights["neighbours.conv.weight"] = weights["neighbours.conv.weight"].swapaxes(1, 2)
        return weights

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        return self._computed(batch, len(self.layers))[0]

    def first_states(self, batch: DeviceBatch) -> mx.array:
        """Those of each row's first token, (rows, 1, width): in the last layer the others are only seen."""
        if len(self.layers) == 1:  # after which a convolution may come
            return self(batch)[:, :1]
        x, positions = self._computed(batch, len(self.layers) - 1)
        return self.layers[-1].first(x, positions)

    def _computed(self, batch: DeviceBatch, count: int) -> tuple[mx.array, RelativePositions]:
        """What the first `count` layers give."""
        embeddings = x = self.embeddings(batch)
        positions = self._positions(batch)
        for index, layer in enumerate(self.layers[:count]):
            x = layer(x, positions)
            if index == 0 and "neighbours" in self:
                x = self.neighbours(embeddings, x, batch.attention_mask)
        return x, positions

    def position_numbers(self) -> PositionNumbers:
        """What says how many numbers are kept by row of the table, and of what they add to the scores."""
        return partial(position_numbers, self.width, 2 * self._span) if self._relative else no_positions

    def _positions(self, batch: DeviceBatch) -> RelativePositions:
        length = batch.input_ids.shape[1]
        if not self._relative:
            return RelativePositions(length, None, attention_mask=batch.attention_mask)
        distances = np.arange(1 - length, length)
        if self._buckets:
            distances = deberta_buckets(distances, self._buckets, self._farthest)
        places = np.clip(distances + self._span, 0, 2 * self._span - 1)
        # Distances that do not occur need no keys and queries.
        first, last = int(places[0]), int(places[-1])
        states = self.relative(mx.arange(first, last + 1))
        if "relative_norm" in self:
            states = self.relative_norm(states)
        return RelativePositions(length, states, mx.array(places - first), batch.attention_mask)


def _farthest(config: Mapping[str, Any]) -> int:
    """The distance beyond which all are one."""
    said = read(config, "max_relative_positions", int)
    return said if said >= 1 else read(config, "max_position_embeddings", int)


def head_width(width: int, heads: int) -> int:
    """Channels of a head where the heads share all."""
    if heads < 1 or width % heads:
        raise CheckpointError(f"config.json: {heads} attention heads cannot share {width} channels")
    return width // heads


def attention_kinds(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of contents and positions look at each other: a list, or a text with "|" between."""
    said = config.get("pos_att_type")
    if isinstance(said, str):
        said = [kind.strip() for kind in said.lower().split("|") if kind.strip()]
    kinds = tuple(said or ())
    if not {"c2p", "p2c"}.issuperset(kinds):
        raise UnsupportedModelError(f"config.json: pos_att_type is {kinds!r}; supported: c2p, p2c")
    return kinds
