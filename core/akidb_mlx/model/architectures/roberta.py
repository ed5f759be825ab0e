"""RoBERTa (Liu et al. 2019, arXiv:1907.11692), XLM-RoBERTa and CamemBERT: BERT that counts positions after the pad."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.architectures.base import read
from akidb_mlx.model.architectures.bert import Bert, Positions
from akidb_mlx.model.device_batch import DeviceBatch

__all__ = ["JINAS_RENAMES", "Roberta", "places_after_padding"]

JINAS_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^roberta\.", ""),
    (r"^emb_ln\.", "embeddings.LayerNorm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.mixer\.Wqkv\.", ".attention.qkv."),
    (r"\.mixer\.out_proj\.", ".attention.out."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".norm."),
    (r"\.mlp\.fc1\.", ".up."),
    (r"\.mlp\.fc2\.", ".down."),
)
"""Names of Jina's implementation of XLM-R (its reranker v2; with rotary positions v3), which transformers' v3 keeps."""


def places_after_padding(batch: DeviceBatch, pad_token_id: int) -> Positions:
    """Positions from pad_token_id + 1; a pad token, which a text may contain, has the pad's and counts for none."""
    input_ids = batch.padded.input_ids
    pads = input_ids == pad_token_id
    if batch.is_padding is not None:
        pads &= ~batch.is_padding  # whose places nobody sees
    if not pads.any():
        return slice(pad_token_id + 1, pad_token_id + 1 + batch.length)
    return mx.array(_positions(input_ids, pad_token_id))


def _positions(input_ids: NDArray[np.int32], pad_token_id: int) -> NDArray[np.int32]:
    counts = input_ids != pad_token_id
    return np.cumsum(counts, axis=1, dtype=np.int32) * counts + np.int32(pad_token_id)


class Roberta(Bert):
    """Hidden states of the last layer."""

    head_weights: ClassVar[tuple[str, ...]] = (*Bert.head_weights, r"lm_head\.")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (*JINAS_RENAMES, *Bert.renames)

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        super().__init__(config)
        self._pad_token_id = read(config, "pad_token_id", int)

    def positions(self, batch: DeviceBatch) -> Positions:
        """Where each token stands: after the pad."""
        return places_after_padding(batch, self._pad_token_id)

    def host_positions(self, input_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """`positions`, for arrays of the host."""
        return _positions(input_ids, self._pad_token_id)
