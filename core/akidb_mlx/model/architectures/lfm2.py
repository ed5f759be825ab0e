"""LFM2 (Liquid AI 2025, arXiv:2511.23404): short gated convolutions, and attention in some layers.

Liquid AI's own code for its embedders (LFM2.5, `Lfm2BidirectionalModel`) lets all tokens see each other and centres the
convolutions; no class of transformers does.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.base import Backbone, allow, read
from akidb_mlx.model.architectures.decoder_table import FULL, Family, account_for
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import ACTIVATIONS
from akidb_mlx.model.layers.attention import SelfAttention, takes_blocks
from akidb_mlx.model.layers.feedforward import GatedMLP
from akidb_mlx.model.layers.masks import Mask, batch_mask, make_causal_mask
from akidb_mlx.model.layers.rope import Rope, make_rope, rope_parameters
from akidb_mlx.model.layers.short_convolution import ShortConvolution

__all__ = ["BIDIRECTIONAL", "FAMILY", "Lfm2"]

Config = Mapping[str, Any]
BIDIRECTIONAL = "Lfm2BidirectionalModel"
"""The class of the checkpoint's own code, in `architectures` or `auto_map`."""
_CONVOLUTION = "conv"
_ROPES = ("default", "linear", "llama3", "yarn")
# Names that its files have for other fields, or for what is always so: no class reads them.
_AGAIN = {
    "block_dim": "hidden_size",
    "block_norm_eps": "norm_eps",
    "conv_dim": "hidden_size",
    "conv_dim_out": "hidden_size",
    "num_heads": "num_attention_heads",
    "theta": "rope_theta",
}
_ALWAYS = ("block_use_swiglu", "use_pos_enc")
FAMILY = Family(
    "lfm2",
    known=(
        *_AGAIN,
        *_ALWAYS,
        *("block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of", "conv_L_cache", "conv_bias"),
        *("full_attn_idxs", "hidden_size", "intermediate_size", "layer_types", "norm_eps", "num_attention_heads"),
        *("num_hidden_layers", "num_key_value_heads", "vocab_size"),
        *("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init"),
        *("disable_flash_attention", "mlx", "tie_embedding"),
    ),
)
"""Fields that are accounted for."""


class Layer(nn.Module):
    """A convolution or attention, and a gated network, each on the normed input."""

    def __init__(self, config: Config, width: int, kind: str, *, centred: bool) -> None:
        """Make one layer of this kind."""
        super().__init__()
        eps = read(config, "norm_eps", float)
        self.operator_norm, self.mlp_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        if kind == FULL:
            heads, kv_heads = read(config, "num_attention_heads", int), read(config, "num_key_value_heads", int)
            head = config.get("head_dim")
            self.attention = SelfAttention(width, heads, kv_heads, bias=False, out_bias=False, head=head, head_norm=eps)
        else:
            kernel, bias = read(config, "conv_L_cache", int), read(config, "conv_bias", bool)
            self.convolution = ShortConvolution(width, kernel, bias=bias, centred=centred)
        self.mlp: Callable[[mx.array], mx.array] = GatedMLP(
            width, _inner(config), ACTIVATIONS["silu"], bias=False, down_bias=False
        )

    def __call__(self, x: mx.array, mask: Mask, rope: Rope, kept: mx.array | None) -> mx.array:
        """(rows, length, width) → the same shape; `kept` is what `ShortConvolution` takes."""
        if "attention" in self:
            return self.attention(x, mask, rope, norm=self.operator_norm, then=self._then)

        def convolve(x: mx.array, place: slice) -> mx.array:
            convolved = self.convolution(self.operator_norm(x), None if kept is None else kept[:, place])
            return self._after(x, convolved)

        if not takes_blocks(x):
            return convolve(x, slice(None))
        return cpu_kernels.in_blocks_of_neighbours(convolve, x, self.convolution.before, self.convolution.after)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        return self._after(x, self.attention.out(attended))

    def _after(self, x: mx.array, operated: mx.array) -> mx.array:
        x = x + operated
        return x + self.mlp(self.mlp_norm(x))


class Lfm2(Backbone):
    """Hidden states of the last layer, normed."""

    family: ClassVar[Family] = FAMILY
    head_weights: ClassVar[tuple[str, ...]] = (r"lm_head\.",)
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^model\.", ""),
        (r"^embed_tokens\.", "word."),
        (r"^embedding_norm\.", "norm."),
        (r"\.ffn_norm\.", ".mlp_norm."),
        (r"\.self_attn\.out_proj\.", ".attention.out."),
        (r"\.self_attn\.q_layernorm\.", ".attention.q_norm."),
        (r"\.self_attn\.k_layernorm\.", ".attention.k_norm."),
        (r"\.self_attn\.", ".attention."),
        (r"\.conv\.conv\.weight$", ".convolution.kernel"),
        (r"\.conv\.conv\.bias$", ".convolution.bias"),
        (r"\.conv\.in_proj\.", ".convolution.gates."),
        (r"\.conv\.out_proj\.", ".convolution.out."),
        (r"\.feed_forward\.w2\.", ".mlp.down."),
        (r"\.feed_forward\.", ".mlp."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("w1", "w3")}

    def __init__(self, config: Config) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        _check_fields(self.family, config)
        self.width = read(config, "hidden_size", int)
        count = read(config, "num_hidden_layers", int)
        self._causal, self._centred = read(config, "is_causal", bool, True), _is_bidirectional(config)
        if self._centred:
            allow(config, "is_causal", (None, False))
            self._causal = False
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        self.layers = [Layer(config, self.width, kind, centred=self._centred) for kind in _kinds(config, count)]
        self.norm = nn.RMSNorm(self.width, read(config, "norm_eps", float))
        head = config.get("head_dim") or self.width // read(config, "num_attention_heads", int)
        parameters = rope_parameters(config, whole=True)
        allow({**config, **parameters}, "rope_type", _ROPES)
        self._rope = make_rope(head, parameters)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; a kernel is (width, tokens), where torch and MLX keep a third."""
        weights = super().sanitize(weights)
        for name in [name for name in weights if name.endswith(".convolution.kernel") and weights[name].ndim == 3]:
            weights[name] = weights[name].squeeze(1 if weights[name].shape[1] == 1 else 2)
        return weights

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        length = batch.input_ids.shape[1]
        seen = batch.attention_mask
        if not self._causal:
            mask: Mask = batch_mask(batch)
        elif batch.real is not None:
            mask = make_causal_mask(length, None, seen, batch.real)
        else:
            mask = "causal"
        # Tokens that fill a query up are text to its own code, and padding to the class. Other padding is behind.
        real = seen if batch.real is None else batch.real
        kept = real if self._centred else None if batch.real is None else seen
        x = self.word(batch.input_ids)
        for layer in self.layers:
            x = layer(x, mask, self._rope, kept)
            cpu_kernels.catch_up(x)
        return self.norm(x)


def _is_bidirectional(config: Config) -> bool:
    named = config.get("auto_map")
    own = str(named.get("AutoModel") if isinstance(named, Mapping) else named).rsplit(".", 1)[-1]
    return own == BIDIRECTIONAL or BIDIRECTIONAL in (config.get("architectures") or [])


def _check_fields(family: Family, config: Config) -> None:
    account_for(family, config, ())
    theta = rope_parameters(config)["rope_theta"]
    for name, other in _AGAIN.items():
        allow(config, name, (None, theta if other == "rope_theta" else config.get(other)))
    for name in _ALWAYS:
        allow(config, name, (None, True))
    if config.get("mlx") and not _is_bidirectional(config):  # as conversions of its embedders have it
        raise UnsupportedModelError(
            f"config.json: mlx tells of a retrieval model, and architectures does not name {BIDIRECTIONAL}; add it "
            "there if tokens see both ways, else delete mlx"
        )


def _kinds(config: Config, count: int) -> list[str]:
    """Attention or convolution, layer by layer; earlier files have the numbers of the former."""
    kinds = config.get("layer_types")
    if kinds is None:
        attention = config.get("full_attn_idxs")
        kinds = [FULL if attention is None or index in attention else _CONVOLUTION for index in range(count)]
    unknown = sorted(set(kinds) - {FULL, _CONVOLUTION})
    if unknown:
        raise UnsupportedModelError(f"config.json: layer_types {unknown[0]!r} is not supported")
    if len(kinds) != count:
        raise CheckpointError(f"config.json: {len(kinds)} layer_types for {count} layers")
    return list(kinds)


def _inner(config: Config) -> int:
    """Channels between the products of a network: two thirds of what is said, up to a multiple, where it asks so."""
    inner = read(config, "intermediate_size", int)
    if not read(config, "block_auto_adjust_ff_dim", bool):
        return inner
    inner = int(2 * inner / 3)
    if config.get("block_ffn_dim_multiplier") is None:
        return inner
    inner = int(read(config, "block_ffn_dim_multiplier", float) * inner)
    multiple = read(config, "block_multiple_of", int)
    return multiple * -(-inner // multiple)
