"""ERNIE (Sun et al. 2019, arXiv:1907.12412): BERT, whose later ones add the type of the task, here always the first."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.architectures.bert import Bert, Embeddings
from akidb_mlx.model.device_batch import DeviceBatch

__all__ = ["Ernie"]


class TaskEmbeddings(Embeddings):
    """Word + position + token type + task type, normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make the tables."""
        super().__init__(config, width, eps)
        self.task_type = nn.Embedding(read(config, "task_type_vocab_size", int), width)

    def by_position(self, batch: DeviceBatch, positions: mx.array) -> mx.array:
        """What is added to the words."""
        return super().by_position(batch, positions) + self.task_type(mx.array([0]))


class Ernie(Bert):
    """Hidden states of the last layer."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^ernie\.", ""),
        (r"^embeddings\.task_type_embeddings\.", "embeddings.task_type."),
        *Bert.renames,
    )

    def make_embeddings(self, config: Mapping[str, Any], eps: float) -> Embeddings:
        """What comes before the layers."""
        self._by_task = read(config, "use_task_id", bool)
        return (TaskEmbeddings if self._by_task else Embeddings)(config, self.width, eps)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names; a table of tasks may be there that nobody reads."""
        weights = super().sanitize(weights)
        if not self._by_task:
            weights.pop("embeddings.task_type.weight", None)
        return weights
