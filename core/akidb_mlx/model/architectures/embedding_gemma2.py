"""EmbeddingGemma 2's tower for texts (transformers' embedding_gemma2): windows, and inputs for each layer."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import UnsupportedModelError
from akidb_mlx.model.architectures.base import Backbone, read
from akidb_mlx.model.architectures.decoder_table import FULL, SLIDING, Family, account_for, layer_kinds
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import Activation, activation
from akidb_mlx.model.layers.attention import attention_layer
from akidb_mlx.model.layers.feedforward import GatedMLP
from akidb_mlx.model.layers.masks import Mask, batch_mask
from akidb_mlx.model.layers.rope import Rope, make_rope, rope_parameters

__all__ = ["EmbeddingGemma2"]

Config = Mapping[str, Any]
# What the class itself puts in the place of fields that config.json leaves out.
_PATTERN, _FULL_HEAD, _FULL_KV_HEADS = 6, 512, 1
# Tokens in whose places images and sounds come; of a text they count as padding. The whole model alone has them.
_PLACES = {"image_token_id": 258_880, "audio_token_id": 258_881, "video_token_id": 258_884}


def _kinds(config: Config, count: int) -> list[str]:
    every = read(config, "sliding_window_pattern", int, _PATTERN)
    kinds = config.get("layer_types") or [SLIDING if (index + 1) % every else FULL for index in range(count)]
    return [*kinds[:-1], FULL]  # the last one is full whatever is said


_FAMILY = Family(
    "embedding_gemma2",
    kinds=_kinds,
    known=(
        "_sliding_window_pattern",
        "embedding_dim",
        "global_head_dim",
        "hidden_size_per_layer_input",
        "layer_types",
        "num_global_key_value_heads",
        "per_layer_config",
        "sliding_window",
        "sliding_window_pattern",
        "use_bidirectional_attention",
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("attention_bias", "rms_norm_eps", "vocab_size"),
        *_PLACES,
    ),
)


class Attention(nn.Module):
    """Attention over normed queries, keys and values, the last without weights, and scores as they are."""

    def __init__(self, config: Config, width: int, head: int, kv_heads: int, eps: float) -> None:
        """Make it with `head` channels of a head."""
        super().__init__()
        self._heads = read(config, "num_attention_heads", int)
        self._kv_heads, self._head, self._eps = kv_heads, head, eps
        bias = read(config, "attention_bias", bool)
        self.qkv = nn.Linear(width, (self._heads + 2 * kv_heads) * head, bias=bias)
        self.q_norm, self.k_norm = nn.RMSNorm(head, eps), nn.RMSNorm(head, eps)
        self.out = nn.Linear(self._heads * head, width, bias=bias)

    def project(self, x: mx.array, first: int, rope: Rope) -> tuple[mx.array, mx.array, mx.array]:
        """(rows, tokens, width), normed, and the first one's position → queries, keys, values."""
        heads = self.qkv(x).reshape(*x.shape[:2], -1, self._head).swapaxes(1, 2)
        queries, keys, values = mx.split(heads, (self._heads, self._heads + self._kv_heads), axis=1)
        queries, keys = rope(self.q_norm(queries), first), rope(self.k_norm(keys), first)
        return queries, keys, mx.fast.rms_norm(values, None, self._eps)


class LayerInput(nn.Module):
    """What each layer is given of the embeddings beside its hidden states, gated by these."""

    def __init__(self, config: Config, width: int, act: Activation, eps: float) -> None:
        """Make one layer's."""
        super().__init__()
        inner = read(config, "hidden_size_per_layer_input", int)
        self.of_embeddings = nn.Linear(width, inner, bias=False)
        self.gate = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.norm = nn.RMSNorm(width, eps)
        self._scale, self._eps, self._activation = width**-0.5, eps, act

    def __call__(self, x: mx.array, embeddings: mx.array, weight: mx.array) -> mx.array:
        """Both (rows, length, width), and the weight of a norm that the layers share → the first with it added."""
        given = mx.fast.rms_norm(self.of_embeddings(embeddings) * self._scale, weight, self._eps)
        return x + self.norm(self.out(self._activation(self.gate(x)) * given))


class Layer(nn.Module):
    """Attention, a gated network and what the layer is given, each normed before it is added; then a factor."""

    def __init__(self, config: Config, width: int, head: int, kv_heads: int, eps: float) -> None:
        """Make one layer."""
        super().__init__()
        act = activation(config, "hidden_activation")
        self.attention_norm, self.attention_out_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.mlp_norm, self.mlp_out_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.attention = Attention(config, width, head, kv_heads, eps)
        self.mlp = GatedMLP(width, read(config, "intermediate_size", int), act, bias=False, down_bias=False)
        self.given = LayerInput(config, width, act, eps)
        self.scalar = mx.ones(1)

    def __call__(self, x: mx.array, embeddings: mx.array, weight: mx.array, mask: Mask, rope: Rope) -> mx.array:
        """(rows, length, width) → the same shape; `embeddings` and `weight` as `LayerInput` takes them."""

        def project(x: mx.array, first: int) -> tuple[mx.array, mx.array, mx.array]:
            return self.attention.project(self.attention_norm(x), first, rope)

        x = attention_layer(project, self._finish, x, mask, 1.0)
        return self.given(x, embeddings, weight) * self.scalar

    def _finish(self, x: mx.array, attended: mx.array) -> mx.array:
        out = self.attention.out(attended.swapaxes(1, 2).reshape(*x.shape[:2], -1))
        x = x + self.attention_out_norm(out)
        return x + self.mlp_out_norm(self.mlp(self.mlp_norm(x)))


class EmbeddingGemma2(Backbone):
    """Hidden states of the last layer, normed and brought to the width of the embeddings."""

    # Gemma 4's networks, which these are, have products beyond its range.
    overflows_in_float16: ClassVar[bool] = True
    head_weights: ClassVar[tuple[str, ...]] = (r"vision_tower\.", r"embed_vision\.", r"audio_tower\.", r"embed_audio\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^model\.(?=language_model\.|vision_tower\.|embed_vision\.|audio_tower\.|embed_audio\.)", ""),
        (r"^language_model\.", ""),
        (r"^model\.", ""),
        (r"^embed_tokens\.", "word."),
        (r"^ple\.per_layer_projection_norm\.", "given_norm."),
        (r"^embedding_projection\.", "out."),
        (r"\.input_layernorm\.", ".attention_norm."),
        (r"\.post_attention_layernorm\.", ".attention_out_norm."),
        (r"\.pre_feedforward_layernorm\.", ".mlp_norm."),
        (r"\.post_feedforward_layernorm\.", ".mlp_out_norm."),
        (r"\.self_attn\.o_proj\.", ".attention.out."),
        (r"\.self_attn\.", ".attention."),
        (r"\.mlp\.down_proj\.", ".mlp.down."),
        (r"\.ple_block\.per_layer_input_gate\.", ".given.gate."),
        (r"\.ple_block\.per_layer_projection\.", ".given.out."),
        (r"\.ple_block\.post_per_layer_input_norm\.", ".given.norm."),
        (r"\.layer_scalar$", ".scalar"),
    )
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qkv": ("q_proj", "k_proj", "v_proj"),
        "gate_up": ("gate_proj", "up_proj"),
    }

    def __init__(self, config: Config) -> None:
        """Make the backbone that config.json, or what it says of texts, describes."""
        super().__init__()
        account_for(_FAMILY, config, ())
        width, eps = read(config, "hidden_size", int), read(config, "rms_norm_eps", float)
        count = read(config, "num_hidden_layers", int)
        self.width = read(config, "embedding_dim", int)
        self._kinds = layer_kinds(_FAMILY, config, count)
        self._window, self._scale = read(config, "sliding_window", int), width**0.5
        heads = [_heads(config, kind, index) for index, kind in enumerate(self._kinds)]
        if len(set(zip(self._kinds, heads, strict=True))) > len(set(self._kinds)):
            raise UnsupportedModelError("config.json: per_layer_config has layers of one kind with heads of two")
        self.word = nn.Embedding(read(config, "vocab_size", int), width)
        self.given_norm = nn.RMSNorm(read(config, "hidden_size_per_layer_input", int), eps)
        self.layers = [Layer(config, width, head, kv_heads, eps) for head, kv_heads in heads]
        self.norm = nn.RMSNorm(width, eps)
        self.out = nn.Linear(width, self.width, bias=False)
        places = _PLACES if config["model_type"] == "embedding_gemma2" else {}
        self._places = {key: place for key in places if (place := config.get(key, places[key])) is not None}
        self._padding = read(config, "pad_token_id", int) if places else 0
        self._ropes = {
            kind: make_rope(head, rope_parameters(config, kind, whole=True))
            for kind, (head, _) in zip(self._kinds, heads, strict=True)
        }

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; each layer gets its part of the projection of the embeddings."""
        weights = super().sanitize(weights)
        for name in [name for name in weights if name.startswith(_PROJECTION)]:
            parts = mx.split(weights.pop(name), len(self.layers))
            kind = name.removeprefix(_PROJECTION)
            weights.update((f"layers.{index}.given.of_embeddings.{kind}", part) for index, part in enumerate(parts))
        return weights

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        masks = {
            FULL: batch_mask(batch),
            SLIDING: batch_mask(batch, self._window),
        }
        token_ids = batch.input_ids
        for place in self._places.values():
            token_ids = mx.where(token_ids == place, self._padding, token_ids)
        x = embeddings = self.word(token_ids) * self._scale
        for layer, kind in zip(self.layers, self._kinds, strict=True):
            x = layer(x, embeddings, self.given_norm.weight, masks[kind], self._ropes[kind])
            cpu_kernels.catch_up(x)
        return self.out(self.norm(x))


_PROJECTION = "ple.per_layer_model_projection."


def _heads(config: Config, kind: str, index: int) -> tuple[int, int]:
    """Channels of a head, and heads of keys, in one layer."""
    own: Any = {}
    if "per_layer_config" not in config:
        if kind == FULL:
            kv_heads = read(config, "num_global_key_value_heads", int, _FULL_KV_HEADS)
            own = {"head_dim": read(config, "global_head_dim", int, _FULL_HEAD), "num_key_value_heads": kv_heads}
    elif config["per_layer_config"]:
        layers = {int(layer): said for layer, said in config["per_layer_config"].items()}
        own = layers.get(index, {})
        if not own.keys() <= {"head_dim", "num_key_value_heads"} or max(layers) >= config["num_hidden_layers"]:
            raise UnsupportedModelError(f"config.json: per_layer_config says {own!r} of layer {index}")
    said = {**config, **own}
    return read(said, "head_dim", int), read(said, "num_key_value_heads", int)
