"""EuroBERT (Boizard et al. 2025, arXiv:2503.05500): Llama's layers, every token seeing every other."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, allow, read
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.feedforward import GatedMLP, add_network
from akidb_mlx.model.layers.flat import by_row, word_states
from akidb_mlx.model.layers.masks import Mask, batch_mask
from akidb_mlx.model.layers.products import add_product
from akidb_mlx.model.layers.rope import Rope, make_rope, rope_parameters

__all__ = ["EuroBert"]


class Layer(nn.Module):
    """Attention and a gated network, each on the normed input."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make one layer."""
        super().__init__()
        heads, kv_heads = read(config, "num_attention_heads", int), read(config, "num_key_value_heads", int)
        inner = read(config, "intermediate_size", int)
        bias, mlp_bias = read(config, "attention_bias", bool), read(config, "mlp_bias", bool)
        self.attention_norm = nn.RMSNorm(width, eps)
        self.attention = SelfAttention(width, heads, kv_heads, bias=bias, out_bias=bias)
        self.mlp_norm = nn.RMSNorm(width, eps)
        self.mlp = GatedMLP(width, inner, activation(config), bias=mlp_bias, down_bias=mlp_bias)

    def __call__(self, x: mx.array, mask: Mask, rope: Rope, *, rows: int = 0) -> mx.array:
        """(rows, length, width), or (rows × length, width) with `rows` → the same shape."""
        return self.attention(x, mask, rope, norm=self.attention_norm, then=self._then, rows=rows)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        x = add_product(x, self.attention.out, attended)
        return add_network(x, self.mlp, self.mlp_norm(x))


class EuroBert(Backbone):
    """Hidden states of the last layer, normed."""

    head_weights: ClassVar[tuple[str, ...]] = (r"lm_head\.",)
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^model\.", ""),
        (r"^embed_tokens\.", "word."),
        (r"\.input_layernorm\.", ".attention_norm."),
        (r"\.post_attention_layernorm\.", ".mlp_norm."),
        (r"\.self_attn\.o_proj\.", ".attention.out."),
        (r"\.self_attn\.", ".attention."),
        (r"\.down_proj\.", ".down."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qkv": ("q_proj", "k_proj", "v_proj"),
        "gate_up": ("gate_proj", "up_proj"),
    }

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        self.width = read(config, "hidden_size", int)
        eps = read(config, "rms_norm_eps", float)
        head = self.width // read(config, "num_attention_heads", int)
        allow(config, "head_dim", (None, head))
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        self.layers = [Layer(config, self.width, eps) for _ in range(read(config, "num_hidden_layers", int))]
        self.norm = nn.RMSNorm(self.width, eps)
        self._rope = make_rope(head, rope_parameters(config, whole=True))

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x = word_states(self.word, batch, self.width)
        mask = batch_mask(batch)
        for layer in self.layers:
            x = layer(x, mask, self._rope, rows=batch.rows)
        return by_row(self.norm(x), batch.rows)
