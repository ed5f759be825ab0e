"""What mlx-lm's class of a model_type computes differently from transformers', mended layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import allow, read
from akidb_mlx.model.architectures.decoder_table import SLIDING

__all__ = ["COMPLETIONS"]

Config = Mapping[str, Any]
Completion = Callable[[Any, Sequence[str], Config], None]
"""mlx-lm's transformer, each layer's kind of attention, config.json."""


def _apertus(model: Any, kinds: Sequence[str], config: Config) -> None:
    """Scalars of the activation have a dimension in files."""
    for layer in model.layers:
        layer.mlp.act_fn.alpha_p, layer.mlp.act_fn.alpha_n = mx.zeros(1), mx.zeros(1)


def _cohere2(model: Any, kinds: Sequence[str], config: Config) -> None:
    """Only windows have rotary positions, whichever layers have them."""
    for layer, kind in zip(model.layers, kinds, strict=True):
        layer.self_attn.use_sliding_window = kind == SLIDING


def _exaone4(model: Any, kinds: Sequence[str], config: Config) -> None:
    """Where there is a window, only layers that have it have rotary positions."""
    for layer, kind in zip(model.layers, kinds, strict=True):
        layer.self_attn.use_rope = config.get("sliding_window") is None or kind == SLIDING


def _internlm3(model: Any, kinds: Sequence[str], config: Config) -> None:
    """Llama's layers, which the reference takes with all biases or none."""
    allow(config, "mlp_bias", (read(config, "attention_bias", bool),))


def _olmo(model: Any, kinds: Sequence[str], config: Config) -> None:
    """Layer norms without weights, in Llama's places."""
    width = read(config, "hidden_size", int)
    model.norm = nn.LayerNorm(width, 1e-5, affine=False)
    for layer in model.layers:
        layer.input_layernorm = nn.LayerNorm(width, 1e-5, affine=False)
        layer.post_attention_layernorm = nn.LayerNorm(width, 1e-5, affine=False)


def _starcoder2(model: Any, kinds: Sequence[str], config: Config) -> None:
    """Biases can be left out."""
    if read(config, "use_bias", bool):
        return
    for layer in model.layers:
        for part in (
            *(layer.self_attn[name] for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
            *layer.mlp.children().values(),
        ):
            del part["bias"]


COMPLETIONS: dict[str, Completion] = {
    "apertus": _apertus,
    "cohere2": _cohere2,
    "exaone4": _exaone4,
    "internlm3": _internlm3,
    "olmo": _olmo,
    "starcoder2": _starcoder2,
}
