"""OLMo 3 (Ai2 2025): windows between full layers, whose rotary positions alone are scaled."""

from collections.abc import Mapping
from typing import Any

from akidb_mlx.model.architectures.decoder import Decoder
from akidb_mlx.model.architectures.decoder_table import FULL, Family
from akidb_mlx.model.layers.rope import Rope, make_rope, refuse_unread_scaling, rope_parameters

__all__ = ["Olmo3"]

_BASE = 500_000.0


class Olmo3(Decoder):
    """Hidden states of the last layer, normed."""

    def make_rope(self, family: Family, config: Mapping[str, Any], kind: str) -> Rope:
        """What stands beside the kinds' settings counts for full layers, its base too."""
        full = kind == FULL
        base = config.get("rope_theta", _BASE) if full else _BASE
        if config.get("rope_parameters") is None:
            refuse_unread_scaling(config)
            scaling = {"rope_type": "default", **((config.get("rope_scaling") or {}) if full else {})}
            config = {**config, "rope_parameters": {kind: scaling}, "rope_scaling": None}
        parameters = rope_parameters({**config, "rope_theta": base}, kind, whole=True)
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return make_rope(head, parameters)
