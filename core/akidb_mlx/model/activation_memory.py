"""How much memory a batch takes beside the weights: an estimate that is not too low, and seldom twice too high."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from akidb_mlx.model.architectures.base import Backbone, PositionNumbers, no_positions
from akidb_mlx.model.architectures.embedding_gemma2 import Attention
from akidb_mlx.model.architectures.joined_layers import JoinedAttention
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.disentangled import DisentangledAttention
from akidb_mlx.model.layers.experts import Mixture

__all__ = ["Activations"]

# Measured with benchmarks/memory.py: what the allocator keeps, in parts of the arrays and at least.
_OVERHEAD, _LEAST = 1.25, 16 << 20
# Arrays of the hidden states' size beside the layer's own: input, sums, norms, pooling.
_HIDDEN_STATES = 6
# The same where a long text's layers are computed in blocks: input, result, what another's layer adds.
_WHOLE = 3
# config.json's names of the number of heads, and of the channels of one.
_HEADS, _HEAD = ("num_attention_heads", "n_heads", "n_head", "num_heads"), ("head_dim", "d_kv", "attention_head_size")
# Scores, their exponentials, the sum.
_SCORES = 3
# On a GPU arrays live until the commands that were sent together have ended.
_SENT_TOGETHER = 2
# Channels of a head that MLX 0.32 has fused attention for; CUDA's takes 16-bit numbers only.
_FUSED_METAL, _FUSED_CUDA = (64, 72, 80, 96, 128), 128


@dataclass(frozen=True)
class Activations:
    """The facts that decide it."""

    width: int
    layer_channels: int
    """Numbers per token that the products of one layer give; layers may differ, and the largest counts."""
    heads: int
    itemsize: int
    on_cpu: bool
    whole_scores: bool
    """Whether attention makes the scores of all tokens at once."""
    kept_in_blocks: int = 0
    """Numbers per token that queries, keys and values have where a long text's layer is computed in blocks, else 0."""
    of_positions: PositionNumbers = no_positions
    """What the backbone's `position_numbers` gives."""

    @classmethod
    def of(cls, backbone: Backbone, config: Mapping[str, Any], kind: str, dtype: mx.Dtype) -> "Activations":
        """Read them from a backbone and its config.json; `kind` is the device's."""
        layers = getattr(backbone, "layers", None) or getattr(getattr(backbone, "model", None), "layers", None) or []
        heads = next((config[key] for key in _HEADS if config.get(key)), 1)
        in_blocks = kind == "cpu" and dtype == mx.float32
        capped = bool(config.get("attn_logit_softcapping"))
        head = next((config[key] for key in _HEAD if config.get(key)), backbone.width // heads)
        whole = not _fuses(kind, head, dtype) or (capped and not in_blocks)
        channels = max(map(_product_channels, layers), default=0)
        kept = max(map(_kept_in_blocks, layers), default=0) if in_blocks else 0
        of_positions = backbone.position_numbers()
        return cls(
            backbone.width, channels, heads if layers else 0, dtype.size, kind == "cpu", whole, kept, of_positions
        )

    def bytes(self, rows: int, length: int) -> int:
        """Bytes that a batch of `rows` × `length` tokens takes at its peak."""
        tokens, long = rows * length, length > cpu_kernels.LONG
        if self.kept_in_blocks and long:
            numbers = tokens * (self.kept_in_blocks + _WHOLE * self.width)
            numbers += max(rows, cpu_kernels.LONG) * self.layer_channels
        else:
            numbers = tokens * (self.layer_channels + _HIDDEN_STATES * self.width)
        arrays = numbers * self.itemsize
        scores = rows * self.heads * length * length * self.itemsize
        if not self.whole_scores:
            block = max(cpu_kernels.BLOCK_BYTES, 4 * rows * self.heads * length) if long else scores
            scores = min(scores, block) if self.on_cpu else 0
        in_blocks = self.on_cpu and long and not self.whole_scores
        positions = self.of_positions(rows, length, self.heads, in_blocks=in_blocks) * self.itemsize
        size = arrays + _SCORES * scores + positions
        return int(_OVERHEAD * size) + _LEAST if self.on_cpu else _SENT_TOGETHER * size


def _fuses(kind: str, head: int, dtype: mx.Dtype) -> bool:
    """Whether attention on the device goes without all scores at once."""
    if kind == "cpu":
        return dtype == mx.float32  # by our blocks; MLX's own makes all
    if kind == "metal":
        return head in _FUSED_METAL
    return head <= _FUSED_CUDA and head % 8 == 0 and dtype.size == 2


def _product_channels(layer: nn.Module) -> int:
    """Numbers per token that its products give."""
    weights = dict(tree_flatten(layer.parameters()))
    channels = sum(weight.shape[0] for name, weight in weights.items() if name.endswith("weight") and weight.ndim == 2)
    return channels + sum(module.channels for module in layer.modules() if isinstance(module, Mixture))


def _kept_in_blocks(layer: nn.Module) -> int:
    """Channels of queries, keys and values, where the layer has one of the attentions that are computed in blocks."""
    for module in layer.modules():
        if isinstance(module, Attention):  # and the embeddings, which all its layers are given
            return int(module.qkv.weight.shape[0] + module.out.weight.shape[0])
        if isinstance(module, SelfAttention | DisentangledAttention):
            return int(module.qkv.weight.shape[0])
        if isinstance(module, JoinedAttention):
            return module.channels
    return 0
