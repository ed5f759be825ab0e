"""Kernels for CUDA: what MLX computes there in several passes.

MLX compiles each of them for a second or two, in every process anew: they are for long work, and serve only where
`AKIDB_TUNING=kernels` asks for them. Where they cannot be compiled MLX's own operations do. All add up in float32;
what is rounded to the dtype between two of these is here too.
"""

import functools
import logging
from typing import Any

import mlx.core as mx

from akidb_mlx.device import tuning
from akidb_mlx.model.layers import cuda_source

__all__ = [
    "HEADS",
    "WIDEST_NORM",
    "WIDEST_POOL",
    "add_layer_norm",
    "add_rms_norm",
    "gelu",
    "may_serve",
    "mean_pool",
    "rope_of_heads",
    "serves",
    "silu_gate",
]

_log = logging.getLogger(__name__)
_LANES = 32
_THREADS = 256
HEADS = (64, 128)
"""Channels of heads that are turned."""
_MANY = 1 << 20  # numbers, from which a kernel of ours is the faster one
WIDEST_NORM = 2048
"""Channels of a norm: a lane has a row's thirty-second part in registers."""
WIDEST_POOL = 4096
"""Channels of a pool: a thread has four, and a block at most 1,024 threads."""
_WIDENED = 16  # how much wider a layer may be inside
_DTYPES = (mx.float16, mx.bfloat16, mx.float32)


@functools.cache
def _kernel(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], source: str, eps: float = 0.0) -> Any:
    header = cuda_source.HEADER + f"constexpr float EPS = {eps!r}f;\n"
    full = name + format(eps, "g").replace(".", "p").replace("-", "m").replace("+", "") if eps else name
    return mx.fast.cuda_kernel(
        name=f"akidb_{full}", input_names=list(inputs), output_names=list(outputs), source=source, header=header
    )


def _blocks(threads: int) -> dict[str, tuple[int, int, int]]:
    whole = -(-threads // _THREADS) * _THREADS
    return {"grid": (whole, 1, 1), "threadgroup": (_THREADS, 1, 1)}


def serves(x: mx.array, *, widest: int = 1 << 20) -> bool:
    """Whether these kernels compute (rows, length, width): on CUDA, where they are asked for, and many numbers.

    One of them takes MLX longer to start than an operation of its own.
    """
    if x.ndim != 3 or x.size < _MANY:
        return False
    width = x.shape[-1]
    return width % 128 == 0 and width <= widest and x.dtype in _DTYPES and _on_gpu() and _work()


def may_serve(numbers: int) -> bool:
    """Whether they may serve where a batch has so many of a backbone's width, and some times as many in between."""
    return numbers * _WIDENED >= _MANY and _on_gpu() and _work()


def _on_gpu() -> bool:
    """Whether this thread computes there now: models for the CPU may be in the same process."""
    return mx.default_device() == mx.gpu


@functools.cache
def _work() -> bool:
    """Whether they are asked for, there is a CUDA device, and they are compiled there and right; asked on it."""
    if not tuning.is_on(tuning.KERNELS) or not mx.cuda.is_available():
        return False
    try:
        x = mx.arange(1024, dtype=mx.float32).reshape(2, 4, 128) / 1024
        ones, none = mx.ones(128), mx.zeros(128)
        ours, theirs = add_layer_norm(x, x, ones, none, 1e-5), mx.fast.layer_norm(x + x, ones, none, 1e-5)
        if float(mx.abs(ours - theirs).max()) < 1e-4:
            return True
        reason = "they give other numbers"
    except Exception as error:  # no compiler, no folder to write to
        reason = str(error).strip().splitlines()[-1]
    _log.warning("CUDA kernels of akidb-mlx are off, MLX's own serve (slower): %s", reason)
    return False


def add_layer_norm(x: mx.array, y: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """Layer norm of `x + y`, (rows, length, width); `y` may be the same for all rows, (length, width)."""
    rows, length, width = x.shape
    kernel = _kernel("add_layer_norm", ("x", "y", "weight", "bias"), ("out",), cuda_source.LAYER_NORM, eps)
    (out,) = kernel(
        inputs=[x, y, weight, bias],
        template=[("T", x.dtype), ("WIDTH", width), ("MEAN", True), ("SHARED", y.size != x.size)],
        **_blocks(_LANES * rows * length),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def add_rms_norm(x: mx.array, y: mx.array, weight: mx.array, eps: float) -> tuple[mx.array, mx.array]:
    """`x + y`, (rows, length, width), and its RMS norm."""
    rows, length, width = x.shape
    kernel = _kernel("add_rms_norm", ("x", "y", "weight"), ("sum", "out"), cuda_source.RMS_NORM, eps)
    total, out = kernel(
        inputs=[x, y, weight],
        template=[("T", x.dtype), ("WIDTH", width), ("MEAN", False), ("SHARED", False)],
        **_blocks(_LANES * rows * length),
        output_shapes=[x.shape, x.shape],
        output_dtypes=[x.dtype, x.dtype],
    )
    return total, out


def gelu(x: mx.array) -> mx.array:
    """Exact GELU of (rows, length, width)."""
    (out,) = _kernel("gelu", ("x",), ("out",), cuda_source.GELU)(
        inputs=[x],
        template=[("T", x.dtype), ("WIDTH", x.shape[-1])],
        **_blocks(x.size // 4),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def silu_gate(x: mx.array) -> mx.array:
    """`silu(gate) × up` of (rows, length, gate and up side by side)."""
    rows, length, both = x.shape
    (out,) = _kernel("silu_gate", ("x",), ("out",), cuda_source.SILU_GATE)(
        inputs=[x],
        template=[("T", x.dtype), ("INNER", both // 2)],
        **_blocks(x.size // 8),
        output_shapes=[(rows, length, both // 2)],
        output_dtypes=[x.dtype],
    )
    return out


def mean_pool(hidden: mx.array, lengths: mx.array, starts: mx.array) -> mx.array:
    """(rows, length, width) → (rows, width) float32: the mean of the tokens from `starts` to `lengths`.

    A row is infinite where one of its tokens is all zeros.
    """
    rows, _, width = hidden.shape
    kernel = _kernel("mean_pool", ("x", "lengths", "starts"), ("out",), cuda_source.MEAN_POOL)
    (out,) = kernel(
        inputs=[hidden, lengths, starts],
        template=[("T", hidden.dtype), ("WIDTH", width)],
        grid=(rows * width // 4, 1, 1),
        threadgroup=(width // 4, 1, 1),
        output_shapes=[(rows, width)],
        output_dtypes=[mx.float32],
    )
    return out


def rope_of_heads(
    qkv: mx.array,
    heads: int,
    kv_heads: int,
    periods: mx.array,
    norms: tuple[mx.array, mx.array, float] | None,
) -> tuple[mx.array, mx.array]:
    """Queries and keys, (rows, length, heads, head), out of (rows, length, queries, keys and values), turned.

    `periods`: (head / 2,) float32, what positions are divided by; `norms`: weights of the RMS norms of queries' and
    keys' heads, and their ε.
    """
    rows, length, width = qkv.shape
    head = width // (heads + 2 * kv_heads)
    q_weight, k_weight, eps = norms or (qkv, qkv, 1e-6)  # of the same dtype, for what is never read is compiled too
    kernel = _kernel("rope", ("x", "q_weight", "k_weight", "periods"), ("queries", "keys"), cuda_source.ROPE, eps)
    template = [("T", qkv.dtype), ("HEAD", head), ("HEADS", heads), ("KEYS", kv_heads), ("NORMS", norms is not None)]
    queries, keys = kernel(
        inputs=[qkv, q_weight, k_weight, periods],
        template=template,
        **_blocks(_LANES * rows * length * (heads + kv_heads)),
        output_shapes=[(rows, length, heads, head), (rows, length, kv_heads, head)],
        output_dtypes=[qkv.dtype, qkv.dtype],
    )
    return queries, keys
