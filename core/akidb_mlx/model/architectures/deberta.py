"""DeBERTa, the first (He et al. 2020, arXiv:2006.03654): no buckets, and each head's query, key and value together."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx

from akidb_mlx.model.architectures.base import allow, read
from akidb_mlx.model.architectures.deberta_v2 import DebertaV2, attention_kinds, head_width
from akidb_mlx.model.layers.disentangled import DisentangledAttention

__all__ = ["Deberta"]


class Deberta(DebertaV2):
    """Hidden states of the last layer."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *DebertaV2.renames,
        (r"\.attention\.pos_proj\.", ".attention.position_key."),
        (r"\.attention\.pos_q_proj\.", ".attention.position_query."),
        (r"\.attention\.in_proj\.", ".attention.qkv."),
    )

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        allow(config, "talking_head", (False,))
        super().__init__(config)
        self._heads = read(config, "num_attention_heads", int)

    def buckets(self, config: Mapping[str, Any]) -> int:
        """None: each distance is its own."""
        return 0

    def norms(self, config: Mapping[str, Any]) -> list[str]:
        """None."""
        return []

    def kernel(self, config: Mapping[str, Any]) -> int:
        """No convolution."""
        return 0

    def make_attention(self, config: Mapping[str, Any]) -> DisentangledAttention:
        """One layer's."""
        heads, kinds = read(config, "num_attention_heads", int), attention_kinds(config)
        return DisentangledAttention(
            self.width,
            heads,
            head_width(self.width, heads),
            kinds if self._relative else (),
            terms=1 + len(kinds),
            shared=False,
            key_bias=False,
        )

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; its rows by head become rows of queries, of keys, of values."""
        weights = super().sanitize(weights)
        for key in [key for key in weights if re.search(r"\.attention\.qkv\.\w+$", key)]:
            rows = weights[key]
            by_head = rows.reshape(self._heads, 3, -1, *rows.shape[1:])
            weights[key] = by_head.swapaxes(0, 1).reshape(rows.shape)
        for key in [key for key in weights if key.endswith(".attention.q_bias")]:
            parent = key.removesuffix("q_bias")
            if f"{parent}v_bias" in weights:
                queries, values = weights.pop(key), weights.pop(f"{parent}v_bias")
                weights[f"{parent}qkv.bias"] = mx.concatenate([queries, mx.zeros_like(queries), values])
        return weights
