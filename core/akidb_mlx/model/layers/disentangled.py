"""Disentangled attention (He et al. 2020, arXiv:2006.03654): contents and relative positions look at each other.

score(i, j) = (q_i · k_j + q_i · K(r) + k_j · Q(r)) / √(d·n) for r = i − j, where K and Q are keys and queries made of a
table of relative positions, and n counts these three terms, as far as the model has them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.attention import attention_layer, first_of_attention_layer
from akidb_mlx.model.layers.masks import ByBlock, is_by_block, make_mask

__all__ = ["DisentangledAttention", "RelativePositions", "deberta_buckets", "position_numbers"]

Then = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class RelativePositions:
    """What all layers read of the positions of a batch."""

    length: int
    states: mx.array | None
    """(used, width) rows of the table for the distances that occur; None where there are no relative positions."""
    places: mx.array | None = None
    """(2 × length − 1,) the row of each distance, a query's place less the key's, from 1 − length to length − 1."""
    attention_mask: mx.array | None = None
    """(rows, length), True on tokens that are seen."""

    def rows(self, queries: slice) -> mx.array:
        """(queries, length): the row for each query and key."""
        assert self.places is not None
        distances = mx.arange(queries.start, queries.stop)[:, None] - mx.arange(self.length)[None, :]
        return self.places[distances + self.length - 1]


class DisentangledAttention(nn.Module):
    """Attention with relative positions that are looked at by queries (`c2p`), by keys (`p2c`), or both."""

    def __init__(
        self, width: int, heads: int, head: int, kinds: tuple[str, ...], *, terms: int, shared: bool, key_bias: bool
    ) -> None:
        """Make it with `heads` of `head` channels.

        Args:
            width: channels of the hidden states.
            heads: attention heads.
            head: channels of one.
            kinds: "c2p", "p2c" or both; empty without relative positions.
            terms: n, above.
            shared: whether positions go through the layers of the contents.
            key_bias: whether the layer that makes keys of positions has a bias, where it is one of its own.
        """
        super().__init__()
        self._head, self._heads, self._kinds, self._shared = head, heads, kinds, shared
        self._scale = (head * terms) ** -0.5
        self.qkv = nn.Linear(width, 3 * heads * head)
        self.out = nn.Linear(heads * head, width)
        if not shared and "c2p" in kinds:
            self.position_key = nn.Linear(width, heads * head, bias=key_bias)
        if not shared and "p2c" in kinds:
            self.position_query = nn.Linear(width, heads * head)

    def __call__(self, x: mx.array, positions: RelativePositions, then: Then, *, first_only: bool = False) -> mx.array:
        """(rows, length, width) → the same shape; `then` is the rest of the layer.

        `first_only` gives what each row's first token gets, (rows, 1, width).
        """
        scores = PositionScores(*self._tables(positions), positions, self._scale) if self._kinds else None

        def project(x: mx.array, first: int) -> tuple[mx.array, mx.array, mx.array]:
            queries, keys, values = self._split(self.qkv(x))
            if scores is not None:
                scores.note(queries, keys, first)
            return queries, keys, values

        def finish(x: mx.array, attended: mx.array) -> mx.array:
            return then(x, self.out(attended.swapaxes(1, 2).reshape(*x.shape[:2], -1)))

        mask = make_mask(positions.attention_mask, positions.length) if scores is None else scores
        layer = first_of_attention_layer if first_only else attention_layer
        return layer(project, finish, x, mask, self._scale)

    def _split(self, qkv: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """(rows, length, 3 × heads × head) → three of (rows, heads, length, head)."""
        heads = qkv.reshape(*qkv.shape[:2], 3 * self._heads, self._head).swapaxes(1, 2)
        queries, keys, values = mx.split(heads, 3, axis=1)
        return queries, keys, values

    def _tables(self, positions: RelativePositions) -> tuple[mx.array | None, mx.array | None]:
        """Keys and queries of the positions, (heads, used, head) each, as far as the model has them."""
        assert positions.states is not None
        states = positions.states[None]
        if self._shared:
            queries, keys, _ = self._split(self.qkv(states))
            return (keys[0, ...] if "c2p" in self._kinds else None), (queries[0, ...] if "p2c" in self._kinds else None)

        def heads(x: mx.array) -> mx.array:
            return x.reshape(-1, self._heads, self._head).swapaxes(0, 1)

        return (
            heads(self.position_key(states)) if "c2p" in self._kinds else None,
            heads(self.position_query(states)) if "p2c" in self._kinds else None,
        )


class PositionScores(ByBlock):
    """What a layer's relative positions add to its scores; of a long text for a block of queries at a time."""

    def __init__(
        self, keys: mx.array | None, queries: mx.array | None, positions: RelativePositions, scale: float
    ) -> None:
        """Take the positions' keys and queries, (heads, used, head), one of them at least, and the scores' factor."""
        self._position_keys, self._positions, self._scale = keys, positions, scale
        # Scaled before the product, which might overflow in 16 bit.
        self._position_queries = None if queries is None else queries * scale
        self._heads = next(table.shape[0] for table in (keys, queries) if table is not None)
        self._queries: dict[int, mx.array] = {}
        self._by_key: list[mx.array] = []

    def note(self, queries: mx.array, keys: mx.array, first: int) -> None:
        """Remember contents, (rows, heads, tokens, head), of which the first stands at `first`."""
        by_block = is_by_block(self._positions.length)
        if self._position_keys is not None:
            self._queries[first] = mx.contiguous(queries) if by_block else queries
        if self._position_queries is not None:
            self._by_key.append(keys @ self._position_queries.swapaxes(-1, -2))
        if by_block:  # else what they are views of stays
            mx.eval(self._queries, self._by_key)

    def block(self, start: int, stop: int) -> tuple[slice, mx.array | None]:
        """For the queries from `start` to `stop`: all keys, and (rows, heads, stop − start, length)."""
        rows = self._positions.rows(slice(start, stop))
        added = None
        if self._position_keys is not None:
            first = max(place for place in self._queries if place <= start)
            for place in [place for place in self._queries if place < first]:
                del self._queries[place]
            queries = self._queries[first][:, :, start - first : stop - first] * self._scale
            added = _gather(queries @ self._position_keys.swapaxes(-1, -2), rows)
        if self._position_queries is not None:
            if len(self._by_key) > 1:
                self._by_key = [mx.concatenate(self._by_key, axis=2)]
            by_key = _gather(self._by_key[0], rows.T).swapaxes(-1, -2)
            added = by_key if added is None else added + by_key
        assert added is not None
        added = added.reshape(-1, self._heads, *added.shape[1:])
        mask = self._positions.attention_mask
        if mask is not None:
            # Every row keeps real tokens: -inf leaves no empty row.
            added = mx.where(mask[:, None, None, :], added, mx.array(-mx.inf, added.dtype))
        return slice(None), added


def _gather(scores: mx.array, rows: mx.array) -> mx.array:
    """(batch, heads, tokens, used) and the row for each of (tokens, others) → (batch × heads, tokens, others).

    In three dimensions, which MLX's CPU build does several times as fast as four.
    """
    flat = scores.reshape(-1, *scores.shape[2:])
    return mx.take_along_axis(flat, mx.broadcast_to(rows, (flat.shape[0], *rows.shape)), axis=-1)


def position_numbers(width: int, table: int, rows: int, length: int, heads: int, *, in_blocks: bool) -> int:
    """How many numbers are kept beside the scores, by the rows of the table: by its row, and what is added."""
    used = min(2 * length - 1, table)
    if in_blocks:
        block = max(cpu_kernels.BLOCK_BYTES // 4, rows * heads * length)
        return rows * length * (heads * used + width) + 4 * block
    return rows * heads * length * (2 * used + 3 * length)


def deberta_buckets(distances: NDArray[Any], buckets: int, farthest: int) -> NDArray[np.int64]:
    """DeBERTa-v2's: a distance itself up to half of `buckets`, beyond that logarithmic, with the distance's sign."""
    middle = buckets // 2
    far = np.maximum(np.abs(distances), middle).astype(np.float64)
    grown = np.ceil(np.log(far / middle) / np.log((farthest - 1) / middle) * (middle - 1)) + middle
    return np.where(np.abs(distances) <= middle, distances, np.sign(distances) * grown).astype(np.int64)
