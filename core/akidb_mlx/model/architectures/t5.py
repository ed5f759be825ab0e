"""T5's encoder (Raffel et al. 2019, arXiv:1910.10683), mT5's and UMT5's: relative positions, RMS norms before layers.

Scores are not scaled, and no layer has a bias. UMT5's layers have relative positions of their own.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import Backbone, PositionNumbers, read
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.feedforward import MLP, GatedMLP, add_network
from akidb_mlx.model.layers.flat import by_row, word_states
from akidb_mlx.model.layers.masks import Mask
from akidb_mlx.model.layers.products import add_product
from akidb_mlx.model.layers.relative import bias_numbers, make_bias

__all__ = ["T5"]

_GELU = {"gated-gelu": "gelu_new"}  # else an activation goes by its own name


class T5Layer(nn.Module):
    """Attention, then a network, each after a norm and added to its input."""

    def __init__(self, config: Mapping[str, Any], width: int) -> None:
        """Make one layer."""
        super().__init__()
        eps = read(config, "layer_norm_epsilon", float)
        heads, head = read(config, "num_heads", int), read(config, "d_kv", int)
        self.attention = SelfAttention(width, heads, bias=False, out_bias=False, head=head, scale=1.0)
        self.attention_norm = nn.RMSNorm(width, eps)
        self.network = _network(config, width)
        self.norm = nn.RMSNorm(width, eps)

    def __call__(self, x: mx.array, mask: Mask, *, rows: int = 0) -> mx.array:
        """(rows, length, width), or (rows × length, width) with `rows` → the same shape."""
        return self.attention(x, mask, norm=self.attention_norm, then=self._then, rows=rows)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        x = add_product(x, self.attention.out, attended)
        return add_network(x, self.network, self.norm(x))


class T5(Backbone):
    """Hidden states after the last norm."""

    overflows_in_float16: ClassVar[bool] = True
    head_weights: ClassVar[tuple[str, ...]] = (r"decoder\.", r"lm_head\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^encoder\.(block|final_layer_norm|embed_tokens)\.", r"\1."),
        (r"^final_layer_norm\.", "norm."),
        (r"^block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.", r"relative.\1."),
        (r"^block\.(\d+)\.layer\.0\.SelfAttention\.o\.", r"layers.\1.attention.out."),
        (r"^block\.(\d+)\.layer\.0\.SelfAttention\.", r"layers.\1.attention."),
        (r"^block\.(\d+)\.layer\.0\.layer_norm\.", r"layers.\1.attention_norm."),
        (r"^block\.(\d+)\.layer\.1\.layer_norm\.", r"layers.\1.norm."),
        (r"^block\.(\d+)\.layer\.1\.DenseReluDense\.wi\.", r"layers.\1.network.up."),
        (r"^block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", r"layers.\1.network.down."),
        (r"^block\.(\d+)\.layer\.1\.DenseReluDense\.", r"layers.\1.network."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("q", "k", "v"), "gate_up": ("wi_0", "wi_1")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the encoder that config.json describes."""
        super().__init__()
        self.width = read(config, "d_model", int)
        layers, heads = read(config, "num_layers", int), read(config, "num_heads", int)
        self._buckets = read(config, "relative_attention_num_buckets", int)
        self._farthest = read(config, "relative_attention_max_distance", int)
        self.shared = nn.Embedding(read(config, "vocab_size", int), self.width)
        # The first layer's serves all, but for UMT5.
        tables = layers if config["model_type"] == "umt5" else 1
        self.relative = [nn.Embedding(self._buckets, heads) for _ in range(tables)]
        self.layers = [T5Layer(config, self.width) for _ in range(layers)]
        self.norm = nn.RMSNorm(self.width, read(config, "layer_norm_epsilon", float))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; the table of words may stand there twice."""
        weights = super().sanitize(weights)
        for key in [key for key in weights if key.startswith("embed_tokens.")]:
            weight, shared = weights.pop(key), f"shared.{key.removeprefix('embed_tokens.')}"
            if not mx.array_equal(weights.setdefault(shared, weight), weight):
                raise CheckpointError("encoder.embed_tokens and shared differ, which are one table of words")
        return weights

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states after the last norm, (rows, length, width)."""
        x = word_states(self.shared, batch, self.width)
        for index, layer in enumerate(self.layers):
            if index < len(self.relative):
                bias = self._bias(index, batch)
            x = layer(x, bias, rows=batch.rows)
        return by_row(self.norm(x), batch.rows)

    def position_numbers(self) -> PositionNumbers:
        """What says how many numbers are kept of what is added to the scores."""
        return bias_numbers

    def _bias(self, index: int, batch: DeviceBatch) -> Mask:
        length = batch.input_ids.shape[1]
        return make_bias(self.relative[index], length, self._buckets, self._farthest, batch.attention_mask)


def _network(config: Mapping[str, Any], width: int) -> nn.Module:
    """As feed_forward_proj says ("relu", "gated-gelu" …), which dense_act_fn and is_gated_act overrule."""
    said = read(config, "feed_forward_proj", str)
    gate, _, name = said.rpartition("-")
    if gate not in ("", "gated"):
        raise CheckpointError(f"config.json: feed_forward_proj is {said!r}; it must be an activation or gated-…")
    act = activation({"dense_act_fn": read(config, "dense_act_fn", str, _GELU.get(said, name))}, "dense_act_fn")
    inner = read(config, "d_ff", int)
    if read(config, "is_gated_act", bool, gate == "gated"):
        return GatedMLP(width, inner, act, bias=False, down_bias=False)
    return MLP(width, inner, act, bias=False)
