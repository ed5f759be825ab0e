"""The kernels of `cuda_kernels` in the C++ of CUDA: a row of `WIDTH` numbers per token, added up in float32."""

__all__ = ["GELU", "HEADER", "LAYER_NORM", "MEAN_POOL", "RMS_NORM", "ROPE", "SILU_GATE"]

# Four numbers are read and written at a time; a warp's lanes have the same row.
HEADER = """
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

LAYER_NORM = (
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

RMS_NORM = (
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
GELU = """
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

SILU_GATE = """
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
MEAN_POOL = """
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
ROPE = """
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
