"""NomicBERT (Nussbaum et al. 2024, arXiv:2402.01613): BERT with rotary positions and gated networks.

Its second version (Nussbaum and Duderstadt 2025, arXiv:2502.07972) has plain networks with biases, and in every other
layer a mixture of experts. transformers 5 has no class for it: its NomicBert leaves the experts out without a word.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, allow, read, token_type_rows
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.experts import Experts, Mixture, Router
from akidb_mlx.model.layers.feedforward import MLP, GatedMLP, add_network
from akidb_mlx.model.layers.flat import by_row, word_states
from akidb_mlx.model.layers.masks import Mask, batch_mask
from akidb_mlx.model.layers.norms import norm_of_sum
from akidb_mlx.model.layers.products import add_product
from akidb_mlx.model.layers.rope import Rope, make_rope, rope_parameters

__all__ = ["NomicBert", "RotaryPostNormLayer"]

# The published files' names → transformers'.
_PUBLISHED = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}


class RotaryPostNormLayer(nn.Module):
    """Attention with rotary positions, then a network, each added to its input and normed."""

    def __init__(self, width: int, heads: int, mlp: nn.Module, eps: float, *, attention_bias: bool) -> None:
        """Make one layer with this network."""
        super().__init__()
        self.attention = SelfAttention(width, heads, bias=attention_bias, out_bias=attention_bias)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.mlp = mlp
        self.norm = nn.LayerNorm(width, eps)

    def __call__(self, x: mx.array, mask: Mask, rope: Rope, *, rows: int = 0) -> mx.array:
        """(rows, length, width), or (rows × length, width) with `rows` → the same shape."""
        return self.attention(x, mask, rope, then=self._then, rows=rows)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        if x.ndim == 3:
            x = norm_of_sum(self.attention_norm, x, self.attention.out(attended))
            return norm_of_sum(self.norm, x, self.mlp(x))
        x = self.attention_norm(add_product(x, self.attention.out, attended))
        normed: mx.array = self.norm(add_network(x, self.mlp, x))
        return normed


class NomicBert(Backbone):
    """Hidden states of the last layer."""

    head_weights: ClassVar[tuple[str, ...]] = (r"pooler\.", r"cls\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^(bert|nomic_bert)\.", ""),
        (r"^embeddings\.(word|token_type)_embeddings\.", r"\1."),
        (r"^emb_ln\.", "norm."),
        (r"^encoder\.layers\.", "layers."),
        (r"\.attn\.Wqkv\.", ".attention.qkv."),
        (r"\.attn\.out_proj\.", ".attention.out."),
        (r"\.norm1\.", ".attention_norm."),
        (r"\.mlp\.fc1\.", ".mlp.up."),
        (r"\.mlp\.fc2\.", ".mlp.down."),
        (r"\.mlp\.router\.layer\.", ".mlp.router."),
        (r"\.mlp\.experts\.mlp\.w1$", ".mlp.experts.up_proj.weight"),
        (r"\.mlp\.experts\.mlp\.w2$", ".mlp.experts.down_proj.weight"),
        (r"\.mlp\.experts\.bias$", ".mlp.bias"),
        (r"\.norm2\.", ".norm."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"gate_up": ("fc12", "fc11")}

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        config = _as_transformers(config)
        self.width = read(config, "hidden_size", int)
        eps, inner = read(config, "layer_norm_eps", float), read(config, "intermediate_size", int)
        heads = read(config, "num_attention_heads", int)
        allow(config, "head_dim", (None, self.width // heads))
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        self.token_type = nn.Embedding(read(config, "type_vocab_size", int), self.width)
        self.norm = nn.LayerNorm(self.width, eps)
        self._experts = config.get("num_experts") or 0
        self.layers = [
            RotaryPostNormLayer(
                self.width, heads, self._network(config, inner, index), eps, attention_bias=bool(self._experts)
            )
            for index in range(read(config, "num_hidden_layers", int))
        ]
        self._rope = make_rope(self.width // heads, rope_parameters(config, whole=True))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; those of all experts stand in one matrix, both (inner, width)."""
        weights = super().sanitize(weights)
        for name, weight in weights.items():
            if ".mlp.experts." in name and weight.ndim == 2:
                parts = weight.reshape(self._experts, -1, weight.shape[1])
                weights[name] = parts.swapaxes(1, 2) if ".down_proj." in name else parts
        return weights

    def _network(self, config: Mapping[str, Any], inner: int, index: int) -> nn.Module:
        """Of the layer at `index`."""
        act = activation(config)
        if not self._experts:
            return GatedMLP(self.width, inner, act, bias=False, down_bias=False)
        if index % read(config, "moe_every_n_layers", int) != 1:
            return MLP(self.width, inner, act, bias=True)
        router = Router(self.width, self._experts, read(config, "moe_top_k", int), normalise=False)
        return Mixture(router, Experts(self.width, inner, self._experts, act, gated=False), bias=self.width)

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x = word_states(self.word, batch, self.width)
        x = self.norm(x + token_type_rows(self.token_type, batch, flat=x.ndim == 2))
        mask = batch_mask(batch)
        for layer in self.layers:
            x = layer(x, mask, self._rope, rows=batch.rows)
        return by_row(x, batch.rows)


def _as_transformers(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The published config.json in transformers' names; an error where it asks for what NomicBERT never had."""
    if "n_embd" not in config:
        allow(config, "num_experts", (None, 0))  # transformers' class, which saves it so, has none
        return config
    mixture = bool(config.get("num_experts"))
    act = allow(config, "activation_function", ("gelu",) if mixture else ("swiglu",))
    allow(config, "rotary_emb_fraction", (1.0,))
    allow(config, "rotary_emb_scale_base", (None,))
    allow(config, "rotary_scaling_factor", (None, 1, 2))  # what the remote code applies beyond the trained length
    for key in ("causal", "prenorm", "parallel_block", "use_rms_norm", "rotary_emb_interleaved"):
        allow(config, key, (False, None))
    for key in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"):
        allow(config, key, (mixture,))
    if mixture:
        allow(config, "expert_choice_router", (False, None))
        allow(config, "ffn_div", (1, None))
        allow(config, "moe_normalize_expert_weights", (False, None))
        allow(config, "num_shared_experts", (0, None))
    return {
        **config,
        **{ours: config[theirs] for theirs, ours in _PUBLISHED.items()},
        "hidden_act": "silu" if act == "swiglu" else act,
    }
