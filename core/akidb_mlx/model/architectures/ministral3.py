"""Ministral 3: Mistral with heads of a stated width, whose queries grow with their position as Llama 4's do."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.architectures.decoder import Decoder
from akidb_mlx.model.architectures.decoder_table import Family
from akidb_mlx.model.architectures.joined_layers import QueryScale
from akidb_mlx.model.layers.rope import Rope
from akidb_mlx.model.layers.rope_by_length import RopeByLength

__all__ = ["Ministral3"]


class Ministral3(Decoder):
    """Hidden states of the last layer, normed."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__(config)
        self._query_scale = _query_scale(_rope_parameters(config))

    def make_rope(self, family: Family, config: Mapping[str, Any], kind: str) -> Rope | RopeByLength:
        """Rotary positions by `rope_parameters`, which hold the queries' scale and a length that nobody reads too."""
        own = {"llama_4_scaling_beta", "max_position_embeddings", "model_type"}
        parameters = {key: value for key, value in _rope_parameters(config).items() if key not in own}
        return super().make_rope(family, {**config, "rope_parameters": parameters}, kind)


def _rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    said = config.get("rope_parameters")
    if not isinstance(said, Mapping):
        raise CheckpointError(f"config.json: rope_parameters must be an object, not {said!r}")
    return {"model_type": config["model_type"], **said}


def _query_scale(parameters: Mapping[str, Any]) -> QueryScale:
    """1 + beta · ln(1 + ⌊position / original⌋): 1 within the length that rotary positions were first trained for."""
    beta = read(parameters, "llama_4_scaling_beta", float)
    original = read(parameters, "original_max_position_embeddings", int)

    def scale(first: int, length: int) -> mx.array:
        steps = mx.floor(mx.arange(first, first + length) / original)
        return (1 + beta * mx.log(1 + steps))[:, None]

    return scale
