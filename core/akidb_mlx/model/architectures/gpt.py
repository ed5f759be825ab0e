"""GPT-2 (Radford et al. 2019), GPT-J (Wang and Komatsuzaki 2021) and GPT-NeoX (Black et al. 2022, arXiv:2204.06745)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import Backbone, allow, read
from akidb_mlx.model.architectures.decoder_table import Family, account_for
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import activation
from akidb_mlx.model.layers.attention import SelfAttention
from akidb_mlx.model.layers.masks import Mask, make_causal_mask
from akidb_mlx.model.layers.rope import Rope, make_rope, rope_parameters

__all__ = ["Gpt"]

Config = Mapping[str, Any]
_OLD = ("n_embd", "n_head", "n_layer", "n_inner", "activation_function", "layer_norm_epsilon")
_NEW = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "hidden_act", "layer_norm_eps")


@dataclass(frozen=True)
class Kind:
    """One model_type."""

    names: tuple[str, str, str, str, str, str]
    """Its fields for width, heads, layers, channels of the network, activation and ε."""
    known: tuple[str, ...] = ()
    bias: bool = True
    """Whether attention has biases, where config.json does not say."""
    parallel: bool = False
    """Whether attention and network read the same, where config.json does not say."""
    two_norms: bool = True
    """Whether the network has a norm of its own."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_GPT2 = (
    "n_ctx",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "summary_activation",
)
_SUMMARY = ("summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj")
_NEOX = ("attention_bias", "rotary_emb_base", "rotary_pct", "use_parallel_residual")
_KINDS = {
    "gpt2": Kind(_OLD, (*_GPT2, *_SUMMARY), only={"add_cross_attention": (False,)}),
    "gptj": Kind(_OLD, ("rotary_dim", *_SUMMARY), bias=False, parallel=True, two_norms=False),
    "gpt_neox": Kind(_NEW, _NEOX),
}


class Layer(nn.Module):
    """Attention and a network of two products, one after the other or side by side, each on the normed input."""

    def __init__(self, config: Config, kind: Kind, index: int) -> None:
        """Make the layer of this number."""
        super().__init__()
        width, heads, _, inner, act, eps = kind.names
        size, count, epsilon = read(config, width, int), read(config, heads, int), read(config, eps, float)
        between = 4 * size if config.get(inner) is None else read(config, inner, int)
        bias = read(config, "attention_bias", bool, kind.bias)
        self._parallel = read(config, "use_parallel_residual", bool, kind.parallel)
        self._activation = activation(config, act)
        scale = 1.0 if config.get("scale_attn_weights") is False else (size // max(count, 1)) ** -0.5
        if config.get("scale_attn_by_inverse_layer_idx"):
            scale /= index + 1
        self.attention_norm = nn.LayerNorm(size, epsilon)
        self.attention = SelfAttention(size, count, bias=bias, out_bias=bias, scale=scale)
        if kind.two_norms:
            self.mlp_norm = nn.LayerNorm(size, epsilon)
        self.up, self.down = nn.Linear(size, between), nn.Linear(between, size)

    def __call__(self, x: mx.array, mask: Mask, rope: Rope | None) -> mx.array:
        """(rows, length, width) → the same shape."""
        return self.attention(x, mask, rope, norm=self.attention_norm, then=self._then)

    def _then(self, x: mx.array, attended: mx.array) -> mx.array:
        after = x + self.attention.out(attended)
        norm = self.get("mlp_norm", self.attention_norm)
        return after + cpu_kernels.in_blocks(self._network, norm(x if self._parallel else after))

    def _network(self, x: mx.array) -> mx.array:
        return self.down(self._activation(self.up(x)))


class Gpt(Backbone):
    """Hidden states of the last layer, normed."""

    ignored_weights: ClassVar[tuple[str, ...]] = (
        r".*\.attention\.(bias|masked_bias)$",
        r".*\.rotary_emb\.inv_freq$",
        r"rotary_emb\.embed_positions$",
    )
    head_weights: ClassVar[tuple[str, ...]] = (r"lm_head\.", r"embed_out\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^(model|transformer|gpt_neox)\.", ""),
        (r"^(wte|embed_in)\.", "word."),
        (r"^wpe\.", "position."),
        (r"^(ln_f|final_layer_norm)\.", "norm."),
        (r"^h\.", "layers."),
        (r"\.(ln_1|input_layernorm)\.", ".attention_norm."),
        (r"\.(ln_2|post_attention_layernorm)\.", ".mlp_norm."),
        (r"\.attn\.", ".attention."),
        (r"\.attention\.(c_attn|query_key_value)\.", ".attention.qkv."),
        (r"\.attention\.(c_proj|out_proj|dense)\.", ".attention.out."),
        (r"\.mlp\.(c_fc|fc_in|dense_h_to_4h)\.", ".up."),
        (r"\.mlp\.(c_proj|fc_out|dense_4h_to_h)\.", ".down."),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {"qkv": ("q_proj", "k_proj", "v_proj")}

    def __init__(self, config: Config) -> None:
        """Make the backbone that config.json describes."""
        super().__init__()
        self._type = config["model_type"]
        kind = _KINDS[self._type]
        only = {"is_causal": (True,), **kind.only}
        known = (*kind.names, *kind.known, "n_positions", "vocab_size")
        account_for(Family(self._type, known=known, only=only), config, ())
        self.width = read(config, kind.names[0], int)
        self._heads = read(config, kind.names[1], int)
        self.word = nn.Embedding(read(config, "vocab_size", int), self.width)
        if self._type == "gpt2":
            self.position = nn.Embedding(read(config, "n_positions", int), self.width)
        count = read(config, kind.names[2], int)
        self.layers = [Layer(config, kind, index) for index in range(count)]
        self.norm = nn.LayerNorm(self.width, read(config, kind.names[5], float))
        self._rope = _rope(config, self.width // self._heads)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names, outputs first, and queries before keys before values."""
        weights = super().sanitize(weights)
        joined = weights.get("layers.0.attention.qkv.weight")
        if (
            self._type == "gpt2" and joined is not None and joined.shape[0] == self.width
        ):  # inputs first, as torch has it
            products = (".qkv.weight", ".out.weight", ".up.weight", ".down.weight")
            weights = {name: one.T if name.endswith(products) else one for name, one in weights.items()}
        if self._type == "gpt_neox":  # of each head its three side by side
            for name in [name for name in weights if ".attention.qkv." in name]:
                heads = weights[name].reshape(self._heads, 3, -1, *weights[name].shape[1:])
                weights[name] = heads.swapaxes(0, 1).reshape(weights[name].shape)
        return weights

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        length = batch.input_ids.shape[1]
        mask: Mask = "causal"
        if batch.real is not None:
            mask = make_causal_mask(length, None, batch.attention_mask, batch.real)
        x = self.word(batch.input_ids)
        if "position" in self:
            x = x + self.position(mx.arange(length))
        for layer in self.layers:
            x = layer(x, mask, self._rope)
            cpu_kernels.catch_up(x)
        return self.norm(x)


def _rope(config: Config, head: int) -> Rope | None:
    if config["model_type"] == "gpt2":
        return None
    if config["model_type"] == "gptj":
        turned = read(config, "rotary_dim", int)
        return make_rope(turned, {"rope_type": "default", "rope_theta": 10_000.0}, interleaved=True)
    said = {
        "rope_theta": config.get("rotary_emb_base", 10_000.0),
        "partial_rotary_factor": config.get("rotary_pct", 0.25),
    }
    parameters = rope_parameters({**config, **said})
    allow({**config, **parameters}, "rope_type", ("default", "linear", "llama3", "yarn"))
    return make_rope(head, parameters)
