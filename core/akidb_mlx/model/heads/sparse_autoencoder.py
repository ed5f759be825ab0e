"""A sparse autoencoder's latents (Wen et al. 2025, arXiv:2503.01776) of a pooled row."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.checkpoint.heads import AutoEncoderHead
from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.heads.pooled import Pooled
from akidb_mlx.model.heads.sparse import SparseHead

__all__ = ["AutoEncoder", "Latents"]

_EPS = 1e-5


class Latents(nn.Module):
    """relu(W (x − b) + c)."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        """Make the layer with weights still to be loaded."""
        super().__init__()
        self.pre_bias = mx.zeros(input_dim)
        self.weight = mx.zeros((hidden_dim, input_dim))
        self.latent_bias = mx.zeros(hidden_dim)

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, input_dim) → (rows, hidden_dim), all of them at least 0."""
        return nn.relu(mx.addmm(self.latent_bias, x - self.pre_bias, self.weight.T))


class AutoEncoder(SparseHead):
    """All positive latents.

    The reference takes the k greatest, negative ones too, and then those above 0 among them: that is the k greatest of
    those above 0, which each call takes for itself on the host.
    """

    def __init__(self, pooled: Pooled, facts: AutoEncoderHead, latents: Latents) -> None:
        """Take what `pooled` gives."""
        super().__init__(facts.hidden_dim)
        if pooled.width != facts.input_dim:
            raise CheckpointError(f"the autoencoder takes {facts.input_dim} numbers and gets {pooled.width}")
        self.pooled = pooled
        self.latents = latents
        self._normalizes = facts.normalize

    @property
    def reads_first(self) -> bool:
        """Whether it reads each row's first token alone."""
        return self.pooled.reads_first

    def __call__(self, hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
        """(rows, length, backbone's width) → (rows, latents) float32."""
        x = self.pooled(hidden_states, batch)
        if self._normalizes:
            x = x - x.mean(axis=-1, keepdims=True)
            x = x / (mx.sqrt(mx.var(x, axis=-1, keepdims=True, ddof=1)) + _EPS)
        latents: mx.array = self.latents(x)
        return latents
