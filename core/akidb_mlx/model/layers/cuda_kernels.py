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

# Four numbers are read and written at a time; a warp's lanes have the same row.
_HEADER = """
template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

__device__ inline float sum_of_warp(float x) {
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, step);
  }
  return x;
}
"""

_ADD_NORM = """
  constexpr int PARTS = WIDTH / 128;
  const size_t row = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const size_t length = x_shape[1];
  if (row >= x_shape[0] * length) return;
  const auto* xs = reinterpret_cast<const Four<T>*>(x) + row * (WIDTH / 4);
  const auto* ys = reinterpret_cast<const Four<T>*>(y) + (SHARED ? row % length : row) * (WIDTH / 4);
  const auto* ws = reinterpret_cast<const Four<T>*>(weight);
  float s[4 * PARTS];
  float total = 0;
  for (int part = 0; part < PARTS; ++part) {
    const Four<T> a = xs[part * 32 + lane];
    const Four<T> b = ys[part * 32 + lane];
    for (int i = 0; i < 4; ++i) {
      s[4 * part + i] = float(T(float(a.v[i]) + float(b.v[i])));
      total += MEAN ? s[4 * part + i] : s[4 * part + i] * s[4 * part + i];
    }
  }
  total = sum_of_warp(total) / WIDTH;
"""

_LAYER_NORM = (
    _ADD_NORM
    + """
  const auto* bs = reinterpret_cast<const Four<T>*>(bias);
  float squares = 0;
  for (int i = 0; i < 4 * PARTS; ++i) {
    s[i] -= total;
    squares += s[i] * s[i];
  }
  const float scale = rsqrtf(sum_of_warp(squares) / WIDTH + EPS);
  auto* outs = reinterpret_cast<Four<T>*>(out) + row * (WIDTH / 4);
  for (int part = 0; part < PARTS; ++part) {
    const Four<T> w = ws[part * 32 + lane];
    const Four<T> b = bs[part * 32 + lane];
    Four<T> o;
    for (int i = 0; i < 4; ++i) {
      o.v[i] = T(s[4 * part + i] * scale * float(w.v[i]) + float(b.v[i]));
    }
    outs[part * 32 + lane] = o;
  }
"""
)

_RMS_NORM = (
    _ADD_NORM
    + """
  const float scale = rsqrtf(total + EPS);
  auto* sums = reinterpret_cast<Four<T>*>(sum) + row * (WIDTH / 4);
  auto* outs = reinterpret_cast<Four<T>*>(out) + row * (WIDTH / 4);
  for (int part = 0; part < PARTS; ++part) {
    const Four<T> w = ws[part * 32 + lane];
    Four<T> o, t;
    for (int i = 0; i < 4; ++i) {
      t.v[i] = T(s[4 * part + i]);
      o.v[i] = T(s[4 * part + i] * scale * float(w.v[i]));
    }
    sums[part * 32 + lane] = t;
    outs[part * 32 + lane] = o;
  }
"""
)

# For 16-bit numbers erf is that of Abramowitz and Stegun 7.1.26, which is off by 1.5e-7 at most.
_GELU = """
  const size_t place = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= size_t(x_shape[0]) * x_shape[1] * (WIDTH / 4)) return;
  Four<T> a = reinterpret_cast<const Four<T>*>(x)[place];
  for (int i = 0; i < 4; ++i) {
    const float f = float(a.v[i]);
    const float z = f * 0.70710678118654752f;
    float erf_of_z;
    if (sizeof(T) == 2) {
      const float size = fabsf(z), t = __fdividef(1.0f, 1.0f + 0.3275911f * size);
      const float series = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t
          + 0.254829592f) * t;
      erf_of_z = copysignf(1.0f - series * __expf(-size * size), z);
    } else {
      erf_of_z = erff(z);
    }
    a.v[i] = T(0.5f * f * (1.0f + erf_of_z));
  }
  reinterpret_cast<Four<T>*>(out)[place] = a;
"""

_SILU_GATE = """
  const size_t place = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const size_t row = place / (INNER / 4), column = place % (INNER / 4);
  if (row >= size_t(x_shape[0]) * x_shape[1]) return;
  const auto* xs = reinterpret_cast<const Four<T>*>(x) + row * (INNER / 2);
  const Four<T> gate = xs[column];
  Four<T> up = xs[INNER / 4 + column];
  for (int i = 0; i < 4; ++i) {
    const float f = float(gate.v[i]);
    up.v[i] = T(f / (1.0f + expf(-f)) * float(up.v[i]));
  }
  reinterpret_cast<Four<T>*>(out)[place] = up;
"""

# A block has a row, a thread four of its channels. Infinite where a token's numbers are all zero: see `Network`.
_MEAN_POOL = """
  const size_t row = blockIdx.x;
  const int length = x_shape[1], last = lengths[row], first = starts[row];
  const auto* xs = reinterpret_cast<const Four<T>*>(x) + row * length * (WIDTH / 4) + threadIdx.x;
  float total[4] = {0, 0, 0, 0};
  bool computed = true;
  for (int token = 0; token < last; ++token) {
    const Four<T> a = xs[size_t(token) * (WIDTH / 4)];
    bool any = false;
    for (int i = 0; i < 4; ++i) {
      const float f = float(a.v[i]);
      any = any || f != 0.0f;
      total[i] += token >= first ? f : 0.0f;
    }
    computed = __syncthreads_or(any) && computed;
  }
  const float count = fmaxf(float(last - first), 1e-9f);
  for (int i = 0; i < 4; ++i) {
    out[row * WIDTH + 4 * threadIdx.x + i] = computed ? (first < last ? total[i] / count : 0.0f) : INFINITY;
  }
"""

# A warp has a token's head; HEAD is 64 or 128, of which a lane has the same two or four in both halves.
_ROPE = """
  constexpr int EACH = HEAD / 64;
  const size_t place = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int length = x_shape[1];
  const size_t token = place / (HEADS + KEYS);
  const int head = place % (HEADS + KEYS);
  if (token >= size_t(x_shape[0]) * length) return;
  const T* xs = x + (token * (HEADS + 2 * KEYS) + head) * HEAD;
  float low[EACH], high[EACH];
  for (int i = 0; i < EACH; ++i) {
    low[i] = float(xs[EACH * lane + i]);
    high[i] = float(xs[HEAD / 2 + EACH * lane + i]);
  }
  if (NORMS) {
    float squares = 0;
    for (int i = 0; i < EACH; ++i) squares += low[i] * low[i] + high[i] * high[i];
    const float scale = rsqrtf(sum_of_warp(squares) / HEAD + EPS);
    const T* w = head < HEADS ? q_weight : k_weight;
    for (int i = 0; i < EACH; ++i) {
      low[i] = float(T(low[i] * scale * float(w[EACH * lane + i])));
      high[i] = float(T(high[i] * scale * float(w[HEAD / 2 + EACH * lane + i])));
    }
  }
  const float position = float(token % length);
  T* outs = head < HEADS ? queries + (token * HEADS + head) * HEAD : keys + (token * KEYS + head - HEADS) * HEAD;
  for (int i = 0; i < EACH; ++i) {
    float s, c;
    sincosf(position / periods[EACH * lane + i], &s, &c);
    outs[EACH * lane + i] = T(low[i] * c - high[i] * s);
    outs[HEAD / 2 + EACH * lane + i] = T(low[i] * s + high[i] * c);
  }
"""


@functools.cache
def _kernel(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], source: str, eps: float = 0.0) -> Any:
    header = _HEADER + f"constexpr float EPS = {eps!r}f;\n"
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
    return width % 128 == 0 and width <= widest and x.dtype in _DTYPES and _work()


def may_serve(numbers: int) -> bool:
    """Whether they may serve where a batch has so many of a backbone's width, and some times as many in between."""
    return numbers * _WIDENED >= _MANY and _work()


@functools.cache
def _work() -> bool:
    """Whether they are asked for, there is a CUDA device, and they are compiled there and right."""
    if not tuning.is_on(tuning.KERNELS) or not mx.cuda.is_available() or mx.default_device() != mx.gpu:
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
    kernel = _kernel("add_layer_norm", ("x", "y", "weight", "bias"), ("out",), _LAYER_NORM, eps)
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
    kernel = _kernel("add_rms_norm", ("x", "y", "weight"), ("sum", "out"), _RMS_NORM, eps)
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
    (out,) = _kernel("gelu", ("x",), ("out",), _GELU)(
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
    (out,) = _kernel("silu_gate", ("x",), ("out",), _SILU_GATE)(
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
    kernel = _kernel("mean_pool", ("x", "lengths", "starts"), ("out",), _MEAN_POOL)
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
    q_weight, k_weight, eps = norms or (periods, periods, 1e-6)
    kernel = _kernel("rope", ("x", "q_weight", "k_weight", "periods"), ("queries", "keys"), _ROPE, eps)
    template = [("T", qkv.dtype), ("HEAD", head), ("HEADS", heads), ("KEYS", kv_heads), ("NORMS", norms is not None)]
    queries, keys = kernel(
        inputs=[qkv, q_weight, k_weight, periods],
        template=template,
        **_blocks(_LANES * rows * length * (heads + kv_heads)),
        output_shapes=[(rows, length, heads, head), (rows, length, kv_heads, head)],
        output_dtypes=[qkv.dtype, qkv.dtype],
    )
    return queries, keys
