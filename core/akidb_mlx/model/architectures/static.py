"""Static models: a vector per token, no transformer (StaticEmbedding; model2vec, its clustered vocabulary too)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx

from akidb_mlx.model.architectures.base import Backbone
from akidb_mlx.model.device_batch import DeviceBatch

__all__ = ["Static"]


class Static(Backbone):
    """The tokens' own vectors; their size is known once the weights are."""

    may_give_zeros: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone; config.json says nothing of it."""
        super().__init__()
        self.embeddings = mx.zeros((0, 0))  # as wide and long as the file's

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """`embeddings`, and where many tokens share a row, `mapping` to it and `weights` of each token."""
        renamed = {"embedding.weight": "embeddings"}
        weights = {renamed.get(name, name): weight for name, weight in weights.items()}
        if "mapping" in weights:
            weights["mapping"] = weights["mapping"].astype(mx.int32)
        for name in ("embeddings", "mapping", "weights"):
            if name in weights:
                self[name] = mx.zeros(weights[name].shape, weights[name].dtype)
        self.width = self.embeddings.shape[1]
        return weights

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Each token's vector, (rows, length, width); zero for what is no token (id -1, an empty text)."""
        token_ids = mx.maximum(batch.input_ids, 0)
        x = self.embeddings[self.mapping[token_ids] if "mapping" in self else token_ids]
        factor = (batch.input_ids >= 0).astype(x.dtype)
        if "weights" in self:
            factor = factor * self.weights[token_ids]
        return x * factor[..., None]
