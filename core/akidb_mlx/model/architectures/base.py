"""What every architecture is: a batch in, hidden states out, and nothing else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.host_encoder import HostEncoder

__all__ = [
    "Backbone",
    "PositionNumbers",
    "allow",
    "fuse",
    "no_positions",
    "read",
    "rename",
    "rows_of",
    "token_type_rows",
]

T = TypeVar("T")
_REQUIRED: Any = object()


class PositionNumbers(Protocol):
    """How many numbers relative positions keep beside the scores of a batch."""

    def __call__(self, rows: int, length: int, heads: int, *, in_blocks: bool) -> int:
        """For `rows` × `length` tokens; `in_blocks`: a long text's layers are computed block by block."""


def no_positions(rows: int, length: int, heads: int, *, in_blocks: bool) -> int:
    """None."""
    return 0


class Backbone(nn.Module):
    """A transformer without its head. Subclasses are made from `config.json` and say how weights are named."""

    width: int
    """Channels of the hidden states."""
    ignored_weights: ClassVar[tuple[str, ...]] = ()
    """Patterns of names (after renaming) that checkpoints carry and nobody needs: numbers that are computed here."""
    head_weights: ClassVar[tuple[str, ...]] = ()
    """Patterns of names (after renaming) of heads that checkpoints carry: those of pretraining, or of a task."""
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(pattern, replacement) pairs that turn the checkpoint's names into ours, applied in order."""
    fused: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Our layer → the checkpoint's layers whose outputs it gives side by side."""
    joined: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The same, where that is done only of weights that are alike."""
    overflows_in_float16: ClassVar[bool] = False
    """Whether hidden states of its checkpoints are too large for float16."""
    may_give_zeros: ClassVar[bool] = False
    """Whether all of a token's hidden states can be zero; in a transformer they are where nothing was computed."""
    on_host: HostEncoder | None = None
    """What computes most batches on a CPU in place of MLX."""

    def __call__(self, batch: DeviceBatch) -> mx.array:
        """Hidden states of the last layer, (rows, length, width)."""
        raise NotImplementedError

    def settle_on_cpu(self) -> None:
        """Once the weights are loaded, to compute in float32 on the CPU: lay them out for it."""

    def settle(self) -> None:
        """Once the weights are loaded, on any device: compute what is the same for all batches."""

    def first_states(self, batch: DeviceBatch) -> mx.array:
        """Those of each row's first token, (rows, 1, width); an architecture may leave out what only others need."""
        return self(batch)[:, :1]

    def position_numbers(self) -> PositionNumbers:
        """What says how many numbers relative positions keep beside the scores; it must not keep the weights."""
        return no_positions

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names."""
        return fuse(rename(weights, self.renames), self.fused)


def rows_of(table: nn.Module, places: mx.array | slice) -> mx.array:
    """What a table has there; a slice of one that is not packed or adapted is no operation that computes."""
    if isinstance(places, slice):
        if type(table) is nn.Embedding and places.stop <= len(table.weight):
            part: mx.array = table.weight[places]
            return part
        places = mx.arange(places.start, places.stop)
    rows: mx.array = table(places)
    return rows


def token_type_rows(table: nn.Module, batch: DeviceBatch, *, flat: bool = False) -> mx.array:
    """What the table of token types adds; it broadcasts to (rows, length, width), `flat` to (rows × length, width)."""
    types = batch.token_types
    if types is None:
        return rows_of(table, slice(0, 1))
    return rows_of(table, types.reshape(-1) if flat else types)


def read(config: Mapping[str, Any], key: str, kind: type[T], default: T = _REQUIRED) -> T:
    """A field of config.json; an error where it is missing or of another type. No default for what decides."""
    value = config.get(key, default)
    if value is _REQUIRED:
        raise CheckpointError(f"config.json lacks {key!r}, which {config.get('model_type')} needs")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CheckpointError(f"config.json: {key} must be {kind.__name__}, not {value!r}")
    return value


def allow(config: Mapping[str, Any], key: str, allowed: Sequence[Any]) -> Any:
    """A field that changes vectors and of which only some values are computed here; the first is its default."""
    value = config.get(key, allowed[0])
    if value not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise UnsupportedModelError(
            f"config.json: {key} is {value!r}; for {config.get('model_type')} only {names} is supported"
        )
    return value


def rename(weights: dict[str, mx.array], renames: Sequence[tuple[str, str]]) -> dict[str, mx.array]:
    """Apply regular expressions to the names of weights."""
    renamed = {}
    for name, weight in weights.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        renamed[name] = weight
    return renamed


def fuse(weights: dict[str, mx.array], fused: Mapping[str, tuple[str, ...]]) -> dict[str, mx.array]:
    """Join layers that read the same input into one, output beside output (also quantised ones)."""
    for ours, theirs in fused.items():
        first = re.compile(rf"(.*\.){re.escape(theirs[0])}\.(\w+)$")
        for match in [match for match in map(first.match, list(weights)) if match]:
            parent, kind = match.groups()
            parts = [f"{parent}{their}.{kind}" for their in theirs]
            if all(part in weights for part in parts):
                weights[f"{parent}{ours}.{kind}"] = mx.concatenate([weights.pop(part) for part in parts])
    return weights
