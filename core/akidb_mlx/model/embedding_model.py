"""EmbeddingModel: backbone → pooling → Dense, one batch to rows of float32."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import Backbone
from akidb_mlx.model.heads.dense import DenseLayer
from akidb_mlx.model.heads.pooling import pool
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["EmbeddingModel"]


class EmbeddingModel(nn.Module):
    """A backbone with its pooling and Dense layers."""

    def __init__(
        self,
        backbone: Backbone,
        pooling: Sequence[str],
        dense: Sequence[DenseLayer],
        activation_bytes: Callable[[int, int], int] | None = None,
    ) -> None:
        """Put the stages together; `activation_bytes` says what a batch of (rows, length) takes beside the weights."""
        super().__init__()
        self.activation_bytes = activation_bytes
        width = backbone.width * len(pooling)
        for layer in dense:
            if layer.in_features != width:
                raise CheckpointError(f"a Dense layer takes {layer.in_features} numbers and gets {width}")
            width = layer.out_features
        self.dimension = width
        """Width of the rows that come out."""
        self.backbone = backbone
        self.dense = list(dense)
        self._pooling = tuple(pooling)

    def __call__(self, batch: PaddedBatch) -> mx.array:
        """One batch → (rows, dimension) float32, not yet truncated or normalised.

        A row is infinite where the hidden states of one of its tokens are all zero: the device did not compute them.
        """
        lengths = mx.array(batch.lengths)
        padded = bool((batch.lengths < batch.input_ids.shape[1]).any())
        attention_mask = mx.arange(batch.input_ids.shape[1])[None, :] < lengths[:, None] if padded else None
        hidden_states = self.backbone(mx.array(batch.input_ids), attention_mask)
        x = pool(hidden_states, lengths, mx.array(batch.prompt_lengths), self._pooling)
        for layer in self.dense:
            x = layer(x)
        if self.backbone.may_give_zeros:
            return x
        return mx.where(_computed(hidden_states, attention_mask)[:, None], x, mx.inf)

    def parameter_bytes(self) -> int:
        """Memory of all weights."""
        return sum(leaf.nbytes for leaf in dict(tree_flatten(self.parameters())).values())


def _computed(hidden_states: mx.array, attention_mask: mx.array | None) -> mx.array:
    """(rows,): whether each real token has a hidden state that is not zero."""
    computed = mx.any(hidden_states != 0, axis=-1)
    return mx.all(computed if attention_mask is None else computed | ~attention_mask, axis=1)
