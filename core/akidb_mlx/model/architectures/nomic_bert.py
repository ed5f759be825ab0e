"""NomicBERT (Nussbaum et al. 2024, arXiv:2402.01613): BERT with rotary positions and gated networks."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, allow, read, token_type_rows
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.activations import Activation, activation
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.feedforward import GatedMLP
from akidb_mlx.model.layers.masks import Mask, make_mask
from akidb_mlx.model.layers.rope import Rope, make_rope, rope_parameters

__all__ = ["GatedPostNormLayer", "NomicBert"]

# The published files' names → transformers'.
_PUBLISHED = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}


class GatedPostNormLayer(nn.Module):
    """Attention with rotary positions, then a gated network, each added to its input and normed."""

    def __init__(
        self, width: int, heads: int, inner: int, act: Activation, eps: float, *, attention_bias: bool, down_bias: bool
    ) -> None:
        """Make one layer."""
        super().__init__()
        self.attention = SelfAttention(width, heads, bias=attention_bias, out_bias=attention_bias)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.mlp = GatedMLP(width, inner, act, bias=False, down_bias=down_bias)
        self.norm = nn.LayerNorm(width, eps)

    def __call__(self, x: mx.array, mask: Mask, rope: Rope) -> mx.array:
        """(rows, length, width) → the same shape."""
        return self.attention(x, mask, rope, then=self._then)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        x = self.attention_norm(x + attended)
        return self.norm(x + self.mlp(x))


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
        (r"\.mlp\.fc2\.", ".mlp.down."),
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
        self.layers = [
            GatedPostNormLayer(self.width, heads, inner, activation(config), eps, attention_bias=False, down_bias=False)
            for _ in range(read(config, "num_hidden_layers", int))
        ]
        self._rope = make_rope(self.width // heads, rope_parameters(config, whole=True))

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        x = self.norm(self.word(batch.input_ids) + token_type_rows(self.token_type, batch))
        mask = make_mask(batch.attention_mask, batch.input_ids.shape[1])
        for layer in self.layers:
            x = layer(x, mask, self._rope)
        return x


def _as_transformers(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The published config.json in transformers' names; an error where it asks for what NomicBERT never had."""
    if "n_embd" not in config:
        return config
    allow(config, "activation_function", ("swiglu",))
    allow(config, "rotary_emb_fraction", (1.0,))
    allow(config, "rotary_scaling_factor", (None, 1, 2))  # what the remote code applies beyond the trained length
    for key in ("causal", "prenorm", "parallel_block", "use_rms_norm", "rotary_emb_interleaved"):
        allow(config, key, (False,))
    for key in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"):
        allow(config, key, (False,))
    return {**config, **{ours: config[theirs] for theirs, ours in _PUBLISHED.items()}, "hidden_act": "silu"}
