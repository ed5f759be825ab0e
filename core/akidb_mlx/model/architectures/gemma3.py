"""Gemma 3 (arXiv:2503.19786) and EmbeddingGemma (arXiv:2509.20354): windows between global layers, two RoPE bases."""

from collections.abc import Mapping
from typing import Any, ClassVar

from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.architectures.decoder import Decoder
from akidb_mlx.model.architectures.decoder_table import FULL, SLIDING, Family
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.layers.masks import Mask, make_mask
from akidb_mlx.model.layers.rope import Rope, make_rope, refuse_unread_scaling, rope_parameters

__all__ = ["Gemma3"]


class Gemma3(Decoder):
    """Hidden states of the last layer, normed."""

    overflows_in_float16: ClassVar[bool] = True

    def is_causal(self, family: Family, config: Mapping[str, Any]) -> bool:
        """EmbeddingGemma's tokens see both ways."""
        return not config.get("use_bidirectional_attention")

    def make_rope(self, family: Family, config: Mapping[str, Any], kind: str) -> Rope:
        """A base for each kind of layer; scaling is for global ones."""
        if config.get("rope_parameters") is not None:
            base = "rope_theta" if kind == FULL else "rope_local_base_freq"
            parameters = rope_parameters({**config, "rope_theta": config.get(base)}, kind, whole=True)
        elif kind == FULL:
            refuse_unread_scaling(config)
            parameters = rope_parameters(config, whole=True)
        else:
            parameters = rope_parameters({"rope_theta": read(config, "rope_local_base_freq", float)})
        return make_rope(read(config, "head_dim", int), parameters)

    def mask(self, batch: DeviceBatch, kind: str) -> Mask:
        """Bidirectional windows reach half of `sliding_window` to each side."""
        if self._causal or kind != SLIDING or self._window is None:
            return super().mask(batch, kind)
        return make_mask(batch.attention_mask, batch.input_ids.shape[1], self._window // 2, batch.real)
