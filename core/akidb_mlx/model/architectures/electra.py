"""ELECTRA's discriminator (Clark et al. 2020, arXiv:2003.10555): BERT, whose small one has narrower tables."""

from collections.abc import Mapping
from typing import Any, ClassVar

from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.architectures.bert import Bert, Embeddings, FactorizedEmbeddings

__all__ = ["Electra"]


class Electra(Bert):
    """Hidden states of the last layer."""

    head_weights: ClassVar[tuple[str, ...]] = (
        *Bert.head_weights,
        r"discriminator_predictions\.",
        r"generator_(predictions|lm_head)\.",
    )
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^electra\.", ""),
        (r"^embeddings_project\.", "embeddings.project."),
        *Bert.renames,
    )

    def make_embeddings(self, config: Mapping[str, Any], eps: float) -> Embeddings:
        """What comes before the layers."""
        narrow = read(config, "embedding_size", int)
        if narrow == self.width:
            return super().make_embeddings(config, eps)
        return FactorizedEmbeddings(config, narrow, self.width, eps)
