"""Network: a backbone and a head, one batch to rows."""

import collections
from collections.abc import Callable, Mapping
from types import MappingProxyType

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from akidb_mlx.model.architectures.base import Backbone
from akidb_mlx.model.device_batch import DeviceBatch, kept
from akidb_mlx.model.heads.base import Computed, Head
from akidb_mlx.model.host_states import HostStates
from akidb_mlx.model.layers.attention import forget_masks
from akidb_mlx.model.padded_batch import PaddedBatch

__all__ = ["Network"]

NO_TASKS: Mapping[str, Backbone] = MappingProxyType({})


class Network(nn.Module):
    """A backbone with the head that makes rows of its hidden states."""

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        activation_bytes: Callable[[int, int], int] | None = None,
        adapted: Mapping[str, Backbone] = NO_TASKS,
    ) -> None:
        """Put them together; `activation_bytes` says what a batch of (rows, length) takes beside the weights.

        `adapted`: task → the backbone that computes its batches, with weights that all share.
        """
        super().__init__()
        self.activation_bytes = activation_bytes
        self.dimension = head.width
        """Width of the rows that come out."""
        self.backbone = backbone
        self.head = head
        self.adapted = dict(adapted)

    def __call__(self, padded: PaddedBatch) -> Computed:
        """One batch → (rows, dimension) float32, not yet finished (truncated, normalised, activated).

        Or what the head's `to_host` takes. A row is infinite where the hidden states of one of its tokens are all zero:
        the device did not compute them. Of a head that is `flagged` a last array, (rows,), says that instead.
        """
        backbone: Backbone = self.backbone if padded.task is None else self.adapted[padded.task]
        on_host = backbone.on_host
        if on_host is not None and on_host.serves(padded):
            return self._from_host(on_host(padded, first_only=self.head.reads_first), padded)
        batch = DeviceBatch.of(padded)
        try:
            hidden_states = backbone.first_states(batch) if self.head.reads_first else backbone(batch)
        finally:
            forget_masks()
        if not self.backbone.may_give_zeros and (marked := self.head.marked(hidden_states, batch)) is not None:
            return marked
        given = self.head(hidden_states, batch)
        computed = None
        if not self.backbone.may_give_zeros:
            computed = _computed(hidden_states, batch)
        if self.head.flagged:
            flags = mx.ones(batch.rows, mx.bool_) if computed is None else computed[:, 0]
            return (*given, flags) if isinstance(given, tuple) else (given, flags)
        assert isinstance(given, mx.array)
        return given if computed is None else mx.where(computed, given, mx.inf)

    def _from_host(self, states: HostStates, padded: PaddedBatch) -> Computed:
        """The same of states that the host computed, all of them."""
        rows = self.head.pool_on_host(states, padded)
        given: Computed = self.head(mx.array(states.padded()), DeviceBatch.of(padded)) if rows is None else rows
        if not self.head.flagged:
            return given
        assert not isinstance(given, np.ndarray)
        flags = mx.ones(len(padded.lengths), mx.bool_)
        return (*given, flags) if isinstance(given, tuple) else (given, flags)

    def why_not_finite(self) -> str:
        """What to do where rows are not finite, by a look at the weights; call it on a device thread."""
        leaves: dict[str, mx.array] = dict(tree_flatten(self.parameters()))
        floats = {name: leaf for name, leaf in leaves.items() if mx.issubdtype(leaf.dtype, mx.floating)}
        bad = next((name for name, leaf in floats.items() if not mx.all(mx.isfinite(leaf)).item()), None)
        sizes = collections.Counter[mx.Dtype]()
        for name, leaf in floats.items():
            sizes[leaf.dtype] += leaf.nbytes * name.startswith("backbone.")
        dtype = str(max(sizes, key=lambda kind: sizes[kind])).removeprefix("mlx.core.") if sizes else "float32"
        if bad is not None:
            name = bad.removeprefix("backbone.")
            return f"the weights themselves hold NaN or infinity ({name}, in {dtype}): take another copy of the model"
        if dtype == "float32":
            return "the weights are finite, and it was computed in float32: no setting helps, leave the input out"
        return f'the weights are finite, and it was computed in {dtype}, which overflows: try dtype="float32"'

    def let_go(self) -> None:
        """Drop all weights; whoever still holds a part of it, for the rows' form, holds none of them."""
        kept.cache_clear()
        for backbone in (self.backbone, *self.adapted.values()):
            backbone.on_host = None  # it has views of them
        for module in reversed(self.modules()):  # parts first, so that a table of parts has no arrays left
            for name, part in list(module.items()):
                if isinstance(part, mx.array) or (isinstance(part, dict | list | tuple) and _holds_arrays(part)):
                    del module[name]

    def parameter_bytes(self) -> int:
        """Memory of all weights; what tasks share counts once."""
        named: dict[str, mx.array] = dict(tree_flatten(self.parameters()))
        return sum(leaf.nbytes for leaf in {id(leaf): leaf for leaf in named.values()}.values())


def _holds_arrays(part: object) -> bool:
    leaves: dict[str, object] = dict(tree_flatten(part))
    return any(isinstance(leaf, mx.array) for leaf in leaves.values())


def _computed(hidden_states: mx.array, batch: DeviceBatch) -> mx.array:
    """(rows, 1): whether each real token has a hidden state that is not zero."""
    computed = mx.any(hidden_states.astype(mx.bool_), axis=-1)  # Metal's `any` reads bits, of which -0.0 has one
    if batch.not_real is not None and hidden_states.shape[1] == batch.length:
        computed = computed | batch.not_real
    return mx.all(computed, axis=1, keepdims=True)
