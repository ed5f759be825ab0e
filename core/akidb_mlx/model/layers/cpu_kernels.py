"""GELU and attention for MLX's CPU build, whose transcendental functions are scalar and take half of a forward.

Both first let the device catch up: MLX holds a thread while some hundred operations of all threads wait, so that one
that runs far ahead keeps the others' cores idle, and a query beside a batch of documents waits three times as long.

Both replace exp by a polynomial raised to a power of two, which are products and sums that the compiler
vectorises. The form is that of Abramowitz and Stegun 7.1.28; the coefficients were fitted for float32.
Measured over all inputs: either GELU is off by less than 7e-7; exp(-t) by less than 2e-6 of itself as long as it
matters (t < 17), for a long text adds up many small ones.
"""

import math
import os
from collections import deque
from collections.abc import Callable

import mlx.core as mx

__all__ = [
    "BLOCK_BYTES",
    "ERFC",
    "LONG",
    "TANH",
    "attention",
    "attention_in_blocks",
    "attention_layer_in_blocks",
    "catch_up",
    "computes_on_cpu",
    "gelu",
    "gelu_tanh",
    "in_blocks",
    "in_blocks_of_neighbours",
    "is_in_blocks",
]

LONG = 512
"""Tokens of a row beyond which attention is computed block by block."""
_NETWORK_TOKENS = 1024  # of a batch, beyond which networks are: a full batch of short texts is not
BLOCK_BYTES = 4 << 20
"""Most that a block's attention scores take; some three arrays of this size live at a time."""
_FREED_BYTES = 32 << 20
"""Freed memory that MLX may keep between the blocks of a long text."""

BlockMask = Callable[[int, int], tuple[slice, mx.array | None]]
"""For queries from one token to another: the keys that they see at most, and who sees whom among them."""
Project = Callable[[mx.array, int], tuple[mx.array, mx.array, mx.array]]
"""(rows, tokens, width) and the first one's position → queries, keys and values, (rows, heads, tokens, head_dim)."""
Finish = Callable[[mx.array, mx.array], mx.array]
"""(rows, tokens, width) and what these tokens attended to, (rows, heads, tokens, head_dim) → what the layer gives."""

ERFC = (2.493349620e-02, 1.025834867e-02, 1.390520472e-03, -8.002941808e-05, 1.986555028e-05)
TANH = (1.5957691216057308, 0.07135481282703282)  # √(8/π), and 0.044715 of it
_SHORT_EXP = tuple(1 / (32**power * math.factorial(power)) for power in range(1, 6))  # of exp(t / 32), Taylor's
_EXP = (
    1.24999858e-01,
    7.81281572e-03,
    3.25288798e-04,
    1.02528184e-05,
    2.39345781e-07,
    6.87606994e-09,
    2.22261402e-12,
    4.12947194e-12,
)


def computes_on_cpu(x: mx.array) -> bool:
    """Whether these kernels serve: float32 on the CPU."""
    return x.dtype == mx.float32 and mx.default_device() == mx.cpu


def catch_up(*arrays: mx.array) -> None:
    """On the CPU, wait until these are computed; call it about twice per layer."""
    if computes_on_cpu(arrays[0]):
        mx.eval(*arrays)


def gelu(x: mx.array) -> mx.array:
    """`x × Φ(x)`, exact GELU: with erfc(|x| / √2) = 1 / p(|x|)³² it is (x + |x| - |x| erfc) / 2."""
    catch_up(x)
    size = mx.abs(x)
    return (x + size - size / _power(size, ERFC, 5)) * 0.5


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU's approximation by a tanh, `x σ(z)` for z = √(8/π) (x + 0.044715 x³): max(x, 0) - |x| / (1 + exp |z|)."""
    catch_up(x)
    size = mx.abs(x)
    power = _power(size * (mx.square(size) * TANH[1] + TANH[0]), _SHORT_EXP, 5)
    return mx.maximum(x, 0) - size / (power + 1.0)


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    mask: mx.array | None,
    scale: float,
    cap: float | None = None,
) -> mx.array:
    """Softmax attention over (rows, heads, length, head_dim) with as many keys' heads as queries'.

    `mask` is True where a token sees another, or is added to the scores. `cap` bounds the scores before (Gemma 2).
    """
    catch_up(queries, keys, values)
    scores = (queries * scale) @ keys.swapaxes(-1, -2)
    if cap is not None:
        scores = mx.tanh(scores / cap) * cap
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf) if mask.dtype == mx.bool_ else scores + mask
    weights = 1.0 / _power(mx.max(scores, axis=-1, keepdims=True) - scores, _EXP, 3)
    # The sum as a product of matrices, which a tuned BLAS does on vectors; MLX's own is scalar.
    return (weights @ values) / (weights @ mx.ones((weights.shape[-1], 1)))


def attention_in_blocks(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    mask: BlockMask,
    scale: float,
    first: int = 0,
    cap: float | None = None,
) -> mx.array:
    """`attention` a block of queries at a time, so that its memory grows with the length, not with its square.

    There may be fewer heads of keys, each for a group of queries' heads. The queries may be some of the text's, from
    token `first` on.
    """
    rows, heads, count, channels = queries.shape
    kv_heads, length = keys.shape[1:3]
    group = heads // kv_heads
    # MLX copies what is not contiguous before each product.
    keys, values = mx.contiguous(keys), mx.contiguous(values)
    mx.eval(keys, values)
    size = max(1, BLOCK_BYTES // (4 * rows * heads * length))
    blocks = []
    for start in range(0, count, size):
        stop = min(start + size, count)
        seen, seeing = mask(first + start, first + stop)
        if group > 1 and seeing is not None and seeing.shape[-2] > 1:
            seeing = mx.concatenate([seeing] * group, axis=-2)
        block = queries[:, :, start:stop].reshape(rows, kv_heads, group * (stop - start), channels)
        attended = attention(block, keys[:, :, seen], values[:, :, seen], seeing, scale, cap)
        attended = attended.reshape(rows, heads, stop - start, channels)
        mx.eval(attended)
        blocks.append(attended)
        _drop_freed()
    return mx.concatenate(blocks, axis=2)


def attention_layer_in_blocks(
    project: Project, finish: Finish, x: mx.array, mask: BlockMask, scale: float, cap: float | None = None
) -> mx.array:
    """`finish(x, attention(*project(x)))` for a block of tokens at a time, so that a long text needs little memory.

    Beside `x` these are keys, values, the queries that still wait and the result as far as it goes.
    """
    rows, length, _ = x.shape
    size = max(1, LONG // rows)
    mx.eval(x)  # what it is made of is dropped before keys and values are there
    blocks = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    queries: deque[mx.array] = deque()
    keys: mx.array | None = None
    values: mx.array | None = None
    for block in blocks:
        projected = project(x[:, block], block.start)
        keys = _put(keys, projected[1], block, length)
        values = _put(values, projected[2], block, length)
        queries.append(mx.contiguous(projected[0]))
        mx.eval(keys, values, queries[-1])
        del projected  # one product that all three were views of
        _drop_freed()
    assert keys is not None
    assert values is not None
    results = []
    for block in blocks:
        attended = attention_in_blocks(queries.popleft(), keys, values, mask, scale, block.start, cap)
        results.append(finish(x[:, block], attended))
        mx.eval(results[-1])
        _drop_freed()
    del keys, values, attended
    return mx.concatenate(results, axis=1)


def _put(whole: mx.array | None, part: mx.array, block: slice, length: int) -> mx.array:
    """Put a part where it belongs in an array of `length` tokens, in place; the first part makes the array."""
    rows, heads, _, channels = part.shape
    if whole is None:
        whole = mx.zeros((rows, heads, length, channels), part.dtype)
        mx.eval(whole)
    whole[:, :, block] = part
    return whole


def _drop_freed() -> None:
    """Give back freed memory where MLX keeps much: blocks under a causal mask are of many sizes, hardly one fits again.

    Not in a forked child: MLX first waits for all streams, and those of the parent never answer.
    """
    if not _forked and mx.get_cache_memory() > _FREED_BYTES:
        mx.clear_cache()


def _note_fork() -> None:
    global _forked
    _forked = True


_forked = False
os.register_at_fork(after_in_child=_note_fork)


def is_in_blocks(x: mx.array) -> bool:
    """Whether `in_blocks` takes several."""
    return x.size > _NETWORK_TOKENS * x.shape[-1] and computes_on_cpu(x)


def in_blocks(compute: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """What `compute` makes of each token of (rows, length, width) or (tokens, width); on the CPU block by block."""
    if not is_in_blocks(x):
        return compute(x)
    blocks = []
    if x.ndim == 2:
        for start in range(0, len(x), LONG):
            blocks.append(compute(x[start : start + LONG]))
            mx.eval(blocks[-1])
        return mx.concatenate(blocks)
    rows, length, _ = x.shape
    size = max(1, LONG // rows)
    for start in range(0, length, size):
        blocks.append(compute(x[:, start : start + size]))
        mx.eval(blocks[-1])
    return mx.concatenate(blocks, axis=1)


def in_blocks_of_neighbours(
    compute: Callable[[mx.array, slice], mx.array], x: mx.array, before: int, after: int
) -> mx.array:
    """`compute(x, slice(None))` of a long (rows, length, width), a block of tokens at a time.

    It makes the same shape of tokens and their place, and reads some tokens before and after each.
    """
    rows, length, _ = x.shape
    size = max(1, LONG // rows)
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = max(0, start - before)
        place = slice(first, min(length, stop + after))
        blocks.append(compute(x[:, place], place)[:, start - first : stop - first])
        mx.eval(blocks[-1])
        _drop_freed()
    return mx.concatenate(blocks, axis=1)


def _power(x: mx.array, coefficients: tuple[float, ...], squarings: int) -> mx.array:
    """`(1 + c₀x + c₁x² + …) ** (2 ** squarings)`; infinite where that is beyond float32."""
    polynomial = x * coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        polynomial = (polynomial + coefficient) * x
    polynomial = polynomial + 1.0
    for _ in range(squarings):
        polynomial = mx.square(polynomial)
    return polynomial
