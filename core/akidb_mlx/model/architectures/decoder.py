"""Decoders (Qwen3, Llama, Mistral, Gemma …): mlx-lm's layers with our rotary positions and masks.

mlx-lm's classes ignore some of what config.json says; `decoder_table` accounts for every field.
"""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import Backbone, allow, read
from akidb_mlx.model.architectures.decoder_completions import COMPLETIONS
from akidb_mlx.model.architectures.decoder_table import DECODERS, FULL, SLIDING, Family, account_for, layer_kinds
from akidb_mlx.model.architectures.joined_layers import (
    GatedNetwork,
    JoinedAttention,
    JoinedNetwork,
    PlainNetwork,
    QueryScale,
    join,
)
from akidb_mlx.model.architectures.mixtures import MIXTURES, gather_experts
from akidb_mlx.model.architectures.mlx_lm import import_model
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import cpu_kernels, cuda_kernels
from akidb_mlx.model.layers.activations import ACTIVATIONS, activation
from akidb_mlx.model.layers.flat import by_row, is_flat
from akidb_mlx.model.layers.masks import Mask, batch_mask, make_causal_mask
from akidb_mlx.model.layers.norms import sum_and_norm
from akidb_mlx.model.layers.rope import Rope, make_rope, rope_parameters
from akidb_mlx.model.layers.rope_by_length import BY_LENGTH, RopeByLength, make_rope_by_length

__all__ = ["Decoder"]


class Decoder(Backbone):
    """Hidden states of the last layer, normed."""

    ignored_weights: ClassVar[tuple[str, ...]] = (r".*\.rotary_emb\.inv_freq$",)
    head_weights: ClassVar[tuple[str, ...]] = (r"lm_head\.", r"model\.score\.", r"model\.mtp_")
    renames: ClassVar[tuple[tuple[str, str], ...]] = ((r"^(?!model\.|lm_head\.)", "model."),)
    joined: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes; mlx-lm is imported here."""
        super().__init__()
        family = DECODERS[config["model_type"]]
        self.width = read(config, "hidden_size", int)
        self.model = _make_theirs(family, config)
        self._kinds = layer_kinds(family, config, len(self.model.layers))
        self._window = read(config, "sliding_window", int) if SLIDING in self._kinds else None
        self._causal = read(config, "is_causal", bool, family.causal)
        self._scale = family.scale(config) if family.scale else None
        self._mask_array = family.mask_array
        ropes = {kind: self.make_rope(family, config, kind) for kind in set(self._kinds)}
        for index, (layer, kind) in enumerate(zip(self.model.layers, self._kinds, strict=True)):
            _complete(layer, family, config, ropes[kind], index)
        self._norm = family.norm
        if config["model_type"] in COMPLETIONS:
            COMPLETIONS[config["model_type"]](self.model, self._kinds, config)
        self.has_experts = config["model_type"] in MIXTURES
        self._plain, self._norms_after, self._norms_add_one = family.plain, family.norms_after, family.norms_add_one
        joined_by_us = family.plain and family.activation != "silu"  # the others' networks stay mlx-lm's own
        self._their_activation = ACTIVATIONS[family.activation] if joined_by_us else None
        self._query_scale: QueryScale | None = None
        self._layers_are_ours = False
        self._ropes = [rope for rope in ropes.values() if isinstance(rope, RopeByLength)]

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; products of the same input are joined where they can be."""
        weights = super().sanitize(weights)
        if self.has_experts:
            weights = gather_experts(weights)
        if self._plain:
            for index, layer in enumerate(self.model.layers):
                parent = f"model.layers.{index}"
                joined = join(weights, f"{parent}.self_attn.", "qkv_proj", self.joined["qkv_proj"])
                if joined or self._query_scale is not None:
                    layer.self_attn = JoinedAttention(layer.self_attn, joined=joined, query_scale=self._query_scale)
                if join(weights, f"{parent}.mlp.", "gate_up_proj", self.joined["gate_up_proj"]):
                    layer.mlp = JoinedNetwork(layer.mlp, self._their_activation)
            self._layers_are_ours = not self.has_experts and all(
                isinstance(layer.self_attn, JoinedAttention) for layer in self.model.layers
            )
        return weights

    def settle(self) -> None:
        """Norms with the weights that they multiply by, where these are not the file's."""
        if not self._norms_add_one:
            return
        for parent in self.modules():
            for name, norm in list(parent.items()):
                if type(norm).__name__ == "RMSNorm" and not isinstance(norm, nn.RMSNorm):
                    made = nn.RMSNorm(0, norm.eps)
                    made.weight = 1.0 + norm.weight
                    mx.eval(made.weight)
                    parent[name] = made

    def make_rope(self, family: Family, config: Mapping[str, Any], kind: str) -> Rope | RopeByLength:
        """The rotary positions of layers of this kind."""
        parameters = rope_parameters(config, whole=not family.partial)
        allow({**config, **parameters}, "rope_type", family.ropes)
        if family.partial:
            read({**config, **parameters}, "partial_rotary_factor", float)
        if parameters["rope_type"] in BY_LENGTH:
            positions = read(config, "max_position_embeddings", int)
            return make_rope_by_length(_head(config), parameters, positions, interleaved=family.interleaved)
        return make_rope(_head(config), parameters, interleaved=family.interleaved)

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        with contextlib.ExitStack() as opened:
            for rope in self._ropes:
                opened.enter_context(rope.of_rows(batch.padded.lengths))
            return self._compute(batch)

    def _compute(self, batch: DeviceBatch) -> mx.array:
        as_flat = self._layers_are_ours and is_flat(batch, self.width)
        x = self.model.embed_tokens(batch.token_ids if as_flat else batch.input_ids)
        if self._scale is not None:
            x = x * self._scale
        masks = {kind: self.mask(batch, kind) for kind in set(self._kinds)}
        if self._plain and not self._norms_after and cuda_kernels.serves(x, widest=cuda_kernels.WIDEST_NORM):
            return self._sums_with_norms(x, [masks[kind] for kind in self._kinds])
        if as_flat:
            return self._flat(x, [masks[kind] for kind in self._kinds], batch.rows)
        for layer, kind in zip(self.model.layers, self._kinds, strict=True):
            x = layer(x, masks[kind], None)
            cpu_kernels.catch_up(x)
        return self.model[self._norm](x)

    def _sums_with_norms(self, x: mx.array, masks: Sequence[Mask]) -> mx.array:
        """Layers of the plain form, each sum together with the norm that comes after it, also the next layer's."""
        layers = self.model.layers
        normed = layers[0].input_layernorm(x)
        for layer, following, mask in zip(layers, [*layers[1:], None], masks, strict=True):
            x, normed = sum_and_norm(layer.post_attention_layernorm, x, layer.self_attn(normed, mask, None))
            after = self.model[self._norm] if following is None else following.input_layernorm
            x, normed = sum_and_norm(after, x, layer.mlp(normed))
        return normed

    def _flat(self, x: mx.array, masks: Sequence[Mask], rows: int) -> mx.array:
        """Layers of the plain form, of (rows × length, width)."""
        for layer, mask in zip(self.model.layers, masks, strict=True):
            if self._norms_after:
                attended = layer.self_attn.of_tokens(layer.input_layernorm(x), mask, rows)
                x = x + layer.post_attention_layernorm(attended)
                x = x + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x)))
                cpu_kernels.catch_up(x)
                continue
            x = layer.self_attn.added_to(x, layer.input_layernorm(x), mask, rows)
            normed = layer.post_attention_layernorm(x)
            x = layer.mlp.added_to(x, normed) if isinstance(layer.mlp, JoinedNetwork) else x + layer.mlp(normed)
            cpu_kernels.catch_up(x)
        return by_row(self.model[self._norm](x), rows)

    def mask(self, batch: DeviceBatch, kind: str) -> Mask:
        """Who sees whom; a causal window counts the token itself, one for both ways reaches that far either way."""
        length = batch.length
        window = self._window if kind == SLIDING else None
        if not self._causal:
            return batch_mask(batch, window)
        if self._mask_array or batch.real is not None:
            return make_causal_mask(length, window, batch.attention_mask, batch.real)
        return make_causal_mask(length, window) if window is not None and window < length else "causal"


def _make_theirs(family: Family, config: Mapping[str, Any]) -> Any:
    """mlx-lm's transformer without its head: it has `embed_tokens`, `layers` and `norm`."""
    module = import_model(family.module)
    fields = inspect.signature(module.ModelArgs).parameters
    account_for(family, config, fields)
    if "head_dim" not in fields:
        allow(config, "head_dim", (None, read(config, "hidden_size", int) // read(config, "num_attention_heads", int)))
    ours = dict.fromkeys(("layer_types", "rope_parameters", "rope_scaling", "sliding_window"))
    replaced = {"rope_theta": 10000.0, "partial_rotary_factor": 1.0, "tie_word_embeddings": True}
    said = {"mlp_bias": False, **config, **ours, **replaced}
    given = {key: said[key] for key in fields if said.get(key) is not None} | _given(family, config)
    try:
        args = module.ModelArgs(**given)
        return module.Model(args).model
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json lacks a setting or has a wrong one: {error}") from None


def _given(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    if family.module == "olmo3":  # its class wants both kinds, and only its own masks and positions read which is which
        return {"sliding_window": 1, "layer_types": [SLIDING, FULL] * read(config, "num_hidden_layers", int)}
    return dict(family.given)


def _head(config: Mapping[str, Any]) -> int:
    """Channels of a head."""
    return config.get("head_dim") or read(config, "hidden_size", int) // read(config, "num_attention_heads", int)


def _complete(layer: Any, family: Family, config: Mapping[str, Any], rope: Rope | RopeByLength, index: int) -> None:
    """Give one of mlx-lm's layers what config.json says and its class ignores."""
    their = layer.self_attn
    if type(their.rope).__name__ != "NoPE":  # SmolLM3 turns only some layers
        their.rope = rope
    for name in family.biases:
        if read(config, "attention_bias", bool, False):
            their[name].bias = mx.zeros(their[name].weight.shape[0])
    name = read(config, family.activation_key, str)
    if family.module == "gemma" and name == "gelu":  # what the first Gemmas' files say for the approximation
        name = "gelu_pytorch_tanh"
    mixture = MIXTURES.get(config["model_type"])
    if mixture is not None and mixture.layers(config, index):
        layer.mlp = mixture.make(config, activation({family.activation_key: name}, family.activation_key))
        return
    if (name == family.activation and family.network is None) or (name, family.activation) == ("swish", "silu"):
        return
    act = activation({family.activation_key: name}, family.activation_key)
    if family.network is not None:
        layer.mlp = PlainNetwork(layer.mlp, *family.network, act)
        return
    if "gate_proj" not in layer.mlp:
        allow(config, family.activation_key, (family.activation,))
    layer.mlp = GatedNetwork(layer.mlp, act)
