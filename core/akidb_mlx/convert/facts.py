"""What a checkpoint's files say, of any kind, and whether two folders say the same."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from akidb_mlx.checkpoint.facts import Checkpoint, read_checkpoint
from akidb_mlx.checkpoint.heads import HeadFacts, PooledHead, SpladeHead, TokenLogitHead
from akidb_mlx.checkpoint.kinds import Kind
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.checkpoint.multi_vector_facts import read_multi_vector_checkpoint
from akidb_mlx.checkpoint.reranker_facts import read_reranker_checkpoint
from akidb_mlx.checkpoint.sparse_facts import SparseCheckpoint, read_sparse_checkpoint

__all__ = ["READERS", "changed", "head_of", "reads_words"]

READERS: Final[Mapping[Kind, Callable[..., ModelFacts]]] = {
    "embedder": read_checkpoint,
    "reranker": read_reranker_checkpoint,
    "sparse": read_sparse_checkpoint,
    "multi_vector": read_multi_vector_checkpoint,
}
# What is another by intention: where the files lie, and how the weights are stored.
_OWN: Final = frozenset(
    {"path", "name", "revision", "config_file", "weight_files", "tokenizer_file", "quantization", "sources"}
)
_PACKING: Final = frozenset({"quantization", "quantization_config"})


def head_of(facts: ModelFacts) -> HeadFacts:
    """What makes rows of hidden states, as far as it decides which weights are a head's."""
    if isinstance(facts, Checkpoint):
        return PooledHead(facts.pooling or (), facts.dense)
    if isinstance(facts, SparseCheckpoint) and facts.head is None:
        return SpladeHead("max", "relu")
    head: HeadFacts = facts.head  # type: ignore[attr-defined]
    return head


def reads_words(facts: ModelFacts) -> bool:
    """Whether the table of words may be the head too."""
    return isinstance(head_of(facts), SpladeHead | TokenLogitHead)


def changed(before: ModelFacts, after: ModelFacts) -> list[str]:
    """Names of the facts that the second folder says otherwise, apart from where it lies and how it is packed."""
    names = [field.name for field in dataclasses.fields(before) if field.name not in _OWN]
    return [
        name for name in names if _plain(getattr(before, name), before.path) != _plain(getattr(after, name), after.path)
    ]


def _plain(value: Any, root: Path) -> Any:
    """Comparable values, files by their place in the folder."""
    if isinstance(value, Path):
        return value.relative_to(root).as_posix() if value.is_relative_to(root) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), root) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one, root) for key, one in value.items() if key not in _PACKING}
    if isinstance(value, tuple | list):
        return [_plain(one, root) for one in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
