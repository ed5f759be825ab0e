"""Gemma 3 (arXiv:2503.19786) and EmbeddingGemma (arXiv:2509.20354): windows between global layers, two RoPE bases."""

from collections.abc import Mapping
from typing import Any, ClassVar

from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.architectures.decoder import Decoder
from akidb_mlx.model.architectures.decoder_table import FULL, Family
from akidb_mlx.model.layers.rope import Rope, make_rope, refuse_unread_scaling, rope_parameters

__all__ = ["Gemma3"]


class Gemma3(Decoder):
    """Hidden states of the last layer, normed."""

    overflows_in_float16: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes; EmbeddingGemma's windows reach half as far to each side."""
        super().__init__(config)
        if config.get("use_bidirectional_attention"):
            if (
                self._window is not None
            ):  # one further where is_causal says the same: the reference halves it twice over
                self._window = self._window // 2 + (not self._causal)
            self._causal = False

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
