"""ERNIE (Sun et al. 2019, arXiv:1907.12412): BERT, whose later ones add the type of the task, here always the first."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.architectures.base import read, rows_of
from akidb_mlx.model.architectures.bert import Bert, Embeddings, Positions

__all__ = ["Ernie"]


class TaskEmbeddings(Embeddings):
    """Word + position + token type + task type, normed."""

    def __init__(self, config: Mapping[str, Any], width: int, eps: float) -> None:
        """Make the tables."""
        super().__init__(config, width, eps)
        self.task_type = nn.Embedding(read(config, "task_type_vocab_size", int), width)

    def by_position(self, positions: Positions, types: mx.array | slice) -> mx.array:
        """What is added to the words, of these places and token types."""
        return super().by_position(positions, types) + rows_of(self.task_type, slice(0, 1))

    def _tables(self) -> list[nn.Module]:
        return [*super()._tables(), self.task_type]


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
