"""What two or more architectures share: attention, gated networks, rotary positions, masks."""

import threading
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.device import tuning
from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.cpu_kernels import Finish, Project
from akidb_mlx.model.layers.masks import ByBlock, LongMask, Mask, RowMask

__all__ = [
    "SelfAttention",
    "attend",
    "attention_layer",
    "attention_layer_in_blocks",
    "first_of_attention_layer",
    "forget_masks",
    "query_block",
    "takes_blocks",
]

Rope = Callable[[mx.array, int], mx.array]
"""(rows, heads, tokens, head_dim) and the first token's position → the same shape."""
Then = Callable[[mx.array, mx.array], mx.array]
"""Tokens and what their heads attended to, side by side, before the last product → the layer's; each token alone."""
# What a block of queries on a GPU has added to its scores, at most: 128 MiB in float32.
_BIAS_NUMBERS = 1 << 25


class _Masks(threading.local):
    """Of the batch that this thread builds; each with what it was made of, so that its id stays taken."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, mx.Dtype, tuple[int, ...]], tuple[mx.array, mx.array]] = {}


_masks = _Masks()


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: Mask, scale: float) -> mx.array:
    """Softmax attention over (rows, heads, length, head_dim), by the device's fastest way.

    There may be fewer heads of keys and values, each for a group of queries' heads.
    """
    length, on_cpu = queries.shape[2], cpu_kernels.computes_on_cpu(queries)
    if on_cpu and length > cpu_kernels.LONG:
        return cpu_kernels.attention_in_blocks(queries, keys, values, _by_block(mask, length), scale)
    if isinstance(mask, RowMask):
        by_sum = not on_cpu and not mx.metal.is_available()  # see `_of_scores`
        mask = mask.added(queries.dtype) if by_sum else mask.block(0, length)[1]
    elif isinstance(mask, ByBlock):
        size = query_block(queries.shape[0], queries.shape[1], keys.shape[2])
        if size < length:
            return _attend_in_blocks(queries, keys, values, mask, scale, size)
        mask = mask.block(0, length)[1]
    if on_cpu and keys.shape[1] == queries.shape[1] and not isinstance(mask, str):
        return cpu_kernels.attention(queries, keys, values, mask, scale)
    if isinstance(mask, mx.array):
        mask = _of_scores(mask, queries.dtype, (*queries.shape[:3], keys.shape[2]))
    head = values.shape[-1]
    if head < tuning.FUSED_HEAD and tuning.is_on("pad_heads"):  # channels of zeros add nothing to a product
        more = [(0, 0)] * 3 + [(0, tuning.FUSED_HEAD - head)]
        queries, keys, values = (mx.pad(part, more) for part in (queries, keys, values))
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)[..., :head]
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _of_scores(mask: mx.array, dtype: mx.Dtype, shape: tuple[int, ...]) -> mx.array:
    """A mask as fused attention takes it, in the shape of the scores; made once for all layers of a batch.

    CUDA's takes an added one three times as fast as a boolean one.
    """
    made = _masks.made
    key = (id(mask), dtype, shape)
    if key not in made:
        is_added = mask.dtype != mx.bool_
        if not is_added and not mx.metal.is_available():
            whole = mx.where(mask, mx.array(0.0, dtype), mx.array(mx.finfo(dtype).min, dtype))
        else:
            whole = mask.astype(dtype) if is_added else mask
        made[key] = mask, mx.broadcast_to(whole, shape)
    return made[key][1]


def forget_masks() -> None:
    """A batch is built: those of its masks are not wanted again."""
    _masks.made.clear()


def query_block(rows: int, heads: int, length: int) -> int:
    """How many of a text's queries attend at a time on a GPU, where what is added to their scores takes memory."""
    return min(length, max(1, _BIAS_NUMBERS // (rows * heads * length)))


def _attend_in_blocks(
    queries: mx.array, keys: mx.array, values: mx.array, mask: ByBlock, scale: float, size: int
) -> mx.array:
    """`attend`, a block of queries at a time."""
    blocks = []
    for start in range(0, queries.shape[2], size):
        stop = min(start + size, queries.shape[2])
        seen, added = mask.block(start, stop)
        blocks.append(attend(queries[:, :, start:stop], keys[:, :, seen], values[:, :, seen], added, scale))
    return mx.concatenate(blocks, axis=2)


def attention_layer(project: Project, finish: Finish, x: mx.array, mask: Mask, scale: float) -> mx.array:
    """`finish(x, attend(*project(x, 0), mask, scale))`; a long text on the CPU is computed block by block."""
    if takes_blocks(x):
        return attention_layer_in_blocks(project, finish, x, mask, scale)
    return finish(x, attend(*project(x, 0), mask, scale))


def first_of_attention_layer(project: Project, finish: Finish, x: mx.array, mask: Mask, scale: float) -> mx.array:
    """What `attention_layer` gives each row's first token, with a query and a network for that one alone.

    (rows, 1, width), or of (rows × length, width) (rows, width).

    `mask` is by block, or the same for all tokens.
    """
    if takes_blocks(x):
        return attention_layer_in_blocks(project, finish, x, mask, scale)[:, :1]
    queries, keys, values = project(x, 0)
    first = x.reshape(queries.shape[0], -1, x.shape[-1])[:, 0] if x.ndim == 2 else x[:, :1]
    return finish(first, attend(queries[:, :, :1], keys, values, mask, scale))


def takes_blocks(x: mx.array) -> bool:
    """Whether layers compute (rows, length, width) block by block: a long text on the CPU."""
    return x.ndim == 3 and x.shape[1] > cpu_kernels.LONG and cpu_kernels.computes_on_cpu(x)


def attention_layer_in_blocks(
    project: cpu_kernels.Project,
    finish: cpu_kernels.Finish,
    x: mx.array,
    mask: Mask,
    scale: float,
    cap: float | None = None,
) -> mx.array:
    """`cpu_kernels.attention_layer_in_blocks` with any mask."""
    return cpu_kernels.attention_layer_in_blocks(project, finish, x, _by_block(mask, x.shape[1]), scale, cap)


def _by_block(mask: Mask, length: int) -> cpu_kernels.BlockMask:
    """Of any mask what a block of queries needs."""
    if isinstance(mask, str):
        mask = LongMask(length, after=0)
    if isinstance(mask, ByBlock):
        return mask.block
    everything = slice(None)
    if mask is None or mask.shape[-2] == 1:
        return lambda start, stop: (everything, mask)
    return lambda start, stop: (everything, mask[..., start:stop, :])


class SelfAttention(nn.Module):
    """Attention in which queries, keys and values come from one product of matrices."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        *,
        bias: bool = True,
        out_bias: bool = True,
        head: int | None = None,
        scale: float | None = None,
        head_norm: float | None = None,
    ) -> None:
        """Make it with `heads` of `width / heads` channels; fewer `kv_heads` are shared by groups of heads.

        `head`: other channels of a head; `scale`: what scores are multiplied by, where that is not `1 / √head`;
        `head_norm`: the ε of norms of each head's queries and keys, where there are any.
        """
        super().__init__()
        if heads < 1 or (head is None and width % heads):
            raise CheckpointError(f"config.json: {heads} attention heads cannot share {width} channels")
        self._head = width // heads if head is None else head
        self._scale = self._head**-0.5 if scale is None else scale
        self._heads, self._kv_heads = heads, kv_heads or heads
        self._all_heads = heads + 2 * self._kv_heads
        self.qkv = nn.Linear(width, (heads + 2 * self._kv_heads) * self._head, bias=bias)
        self.out = nn.Linear(heads * self._head, width, bias=out_bias)
        if head_norm is not None:
            self.q_norm, self.k_norm = nn.RMSNorm(self._head, head_norm), nn.RMSNorm(self._head, head_norm)

    def add_norms(self, width: int, eps: float) -> None:
        """Have queries and keys normed before they are split into heads, as many of either."""
        self.query_norm = nn.LayerNorm(width, eps)
        self.key_norm = nn.LayerNorm(width, eps)

    def __call__(
        self,
        x: mx.array,
        mask: Mask,
        rope: Rope | None = None,
        *,
        norm: Callable[[mx.array], mx.array] | None = None,
        then: Then | None = None,
        first_only: bool = False,
        rows: int = 0,
    ) -> mx.array:
        """(rows, length, width) → the same shape; `mask` as from `make_mask`, or an additive one.

        `norm` comes before; `then` is the rest of the layer, which a long text computes together with its attention.
        `first_only` gives what each row's first token gets, (rows, 1, width), where `mask` is the same for all tokens.
        `rows` is needed with (rows × length, width), of which `first_only` gives (rows, width): see `flat.is_flat`.
        """

        def project(x: mx.array, first: int) -> tuple[mx.array, mx.array, mx.array]:
            qkv = self["qkv"](x if norm is None else norm(x))
            if "query_norm" in self:  # over all heads together
                q, k, v = mx.split(qkv, 3, axis=-1)
                qkv = mx.concatenate([self.query_norm(q), self.key_norm(k), v], axis=-1)
            heads = qkv.reshape(rows if x.ndim == 2 else x.shape[0], -1, self._all_heads, self._head).swapaxes(1, 2)
            queries, keys, values = mx.split(heads, (self._heads, self._heads + self._kv_heads), axis=1)
            if "q_norm" in self:
                queries, keys = self.q_norm(queries), self.k_norm(keys)
            if rope is not None and "q_norm" not in self and tuning.is_on("joint_rope"):
                # All heads lie as MLX's kernel reads them; parts of them it copies first.
                queries, keys, _ = mx.split(rope(heads, first), (self._heads, self._heads + self._kv_heads), axis=1)
            elif rope is not None:
                queries, keys = rope(queries, first), rope(keys, first)
            return queries, keys, values

        def finish(x: mx.array, attended: mx.array) -> mx.array:
            joined = attended.swapaxes(1, 2).reshape(*x.shape[:-1], -1)
            return self.out(joined) if then is None else then(x, joined)

        layer = first_of_attention_layer if first_only else attention_layer
        return layer(project, finish, x, mask, self._scale)
