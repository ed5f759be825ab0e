"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): rotary positions, pre-norm, local layers between global ones."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import Backbone, allow, read
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.feedforward import GatedMLP, add_network
from akidb_mlx.model.layers.flat import by_row, word_states
from akidb_mlx.model.layers.masks import Mask, batch_mask
from akidb_mlx.model.layers.products import add_product
from akidb_mlx.model.layers.rope import make_rope, refuse_unread_scaling, rope_parameters

__all__ = ["ModernBert"]


class Layer(nn.Module):
    """Attention and a gated network, each on the normed input; the first layer's attention takes it as it is."""

    def __init__(self, config: Mapping[str, Any], width: int, index: int) -> None:
        """Make one layer."""
        super().__init__()
        eps, norm_bias = read(config, "norm_eps", float), read(config, "norm_bias", bool)
        bias, mlp_bias = read(config, "attention_bias", bool), read(config, "mlp_bias", bool)
        inner = read(config, "intermediate_size", int)
        if index:
            self.attention_norm = nn.LayerNorm(width, eps, bias=norm_bias)
        self.attention = SelfAttention(width, read(config, "num_attention_heads", int), bias=bias, out_bias=bias)
        self.mlp_norm = nn.LayerNorm(width, eps, bias=norm_bias)
        act = activation(config, "hidden_activation")
        self.mlp = GatedMLP(width, inner, act, bias=mlp_bias, down_bias=mlp_bias)

    def __call__(self, x: mx.array, mask: Mask, rope: Any, *, rows: int = 0) -> mx.array:
        """(rows, length, width), or (rows × length, width) with `rows` → the same shape."""
        return self.attention(x, mask, rope, norm=self.get("attention_norm"), then=self._then, rows=rows)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        x = add_product(x, self.attention.out, attended)
        return add_network(x, self.mlp, self.mlp_norm(x))


class ModernBert(Backbone):
    """Hidden states of the last layer, normed."""

    head_weights: ClassVar[tuple[str, ...]] = (r"head\.", r"decoder\.", r"classifier\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^model\.", ""),
        (r"^embeddings\.tok_embeddings\.", "word."),
        (r"^embeddings\.norm\.", "norm."),
        (r"\.attn_norm\.", ".attention_norm."),
        (r"\.attn\.Wqkv\.", ".attention.qkv."),
        (r"\.attn\.Wo\.", ".attention.out."),
        (r"\.mlp\.Wi\.", ".mlp.gate_up."),
        (r"\.mlp\.Wo\.", ".mlp.down."),
    )

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        self.width = read(config, "hidden_size", int)
        eps, bias = read(config, "norm_eps", float), read(config, "norm_bias", bool)
        count = read(config, "num_hidden_layers", int)
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        self.norm = nn.LayerNorm(self.width, eps, bias=bias)
        self.layers = [Layer(config, self.width, index) for index in range(count)]
        self.final_norm = nn.LayerNorm(self.width, eps, bias=bias)
        self._kinds = _layer_kinds(config, count)
        # `local_attention` is the whole window; tokens see that half to each side.
        self._window = read(config, "local_attention", int) // 2
        if "sliding_window" in config:  # another name, which would win over local_attention
            allow(config, "sliding_window", (self._window,))
        head = self.width // read(config, "num_attention_heads", int)
        allow(config, "head_dim", (None, head))
        self._ropes = {kind: make_rope(head, _rope_parameters(config, kind)) for kind in set(self._kinds)}

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        masks = {
            "full_attention": batch_mask(batch),
            "sliding_attention": batch_mask(batch, self._window),
        }
        x = self.norm(word_states(self.word, batch, self.width))
        for layer, kind in zip(self.layers, self._kinds, strict=True):
            x = layer(x, masks[kind], self._ropes[kind], rows=batch.rows)
        return by_row(self.final_norm(x), batch.rows)


def _layer_kinds(config: Mapping[str, Any], count: int) -> list[str]:
    kinds = config.get("layer_types")
    if kinds is None:
        every = read(config, "global_attn_every_n_layers", int)
        kinds = ["sliding_attention" if index % every else "full_attention" for index in range(count)]
    for kind in kinds:
        allow({**config, "layer_types": kind}, "layer_types", ("full_attention", "sliding_attention"))
    if len(kinds) != count:
        raise CheckpointError(f"config.json: {len(kinds)} layer_types for {count} layers")
    return list(kinds)


def _rope_parameters(config: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    key = "global_rope_theta" if kind == "full_attention" else "local_rope_theta"
    if config.get("rope_parameters") is not None:
        return rope_parameters({**config, "rope_theta": config.get(key)}, kind, whole=True)
    refuse_unread_scaling(config)
    return rope_parameters({**config, "rope_theta": read(config, key, float)}, whole=True)
