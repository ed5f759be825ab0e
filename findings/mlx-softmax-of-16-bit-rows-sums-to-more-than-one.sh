#!/usr/bin/env bash
# MLX 0.32.4 (CPU build, Linux x86-64): mx.softmax of long rows in bfloat16 and float16, `precise` left at its default.
# Guess: rounding costs a third digit; the row's sum is kept in float32, as mx.sum and mx.logsumexp of the same rows keep
#   it, so that weights sum to about 1. `precise=True` is for the exponentials.
# What happens: the sum is a bfloat16 (float16) to which one is added at a time, so it stands still at 256 (2048). Each of
#   4096 equal logits gets 1/256 in place of 1/4096, and the row sums to 16. Nothing is NaN, no warning. precise=True is
#   right, and so is mx.fast.scaled_dot_product_attention.
# Whom it hits: who writes attention, a router or a loss with mx.softmax and tries it on the CPU (CI, Linux) in the
#   checkpoint's dtype: short inputs agree with a GPU, from some 256 positions on outputs grow with the length.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "mlx[cpu]==0.32.4" numpy
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import numpy as np

normal = mx.array(np.random.default_rng(0).standard_normal(4096, dtype=np.float32))


def total(row, **options):
    return mx.softmax(row, axis=-1, **options).astype(mx.float32).sum().item()


seen = {}
for dtype in (mx.bfloat16, mx.float16, mx.float32):
    equal = mx.zeros(4096, dtype=dtype)
    ones = mx.exp(equal)
    seen[dtype] = total(mx.zeros(128, dtype=dtype)), total(equal), total(normal.astype(dtype))
    exact = total(equal, precise=True), ones.sum().item(), mx.logsumexp(equal).item()
    print(f"{dtype}: softmax sums to {seen[dtype][0]:.2f} over 128 equal logits, {seen[dtype][1]:.2f} over 4096, "
          f"{seen[dtype][2]:.2f} over 4096 normal ones; with precise {exact[0]:.2f}; "
          f"mx.sum of the exponentials {exact[1]:.0f}, logsumexp {exact[2]:.2f}")
    assert abs(exact[0] - 1) < 0.01 and exact[1] == 4096 and abs(exact[2] - np.log(4096)) < 0.02
keys = mx.ones((1, 1, 4096, 64), dtype=mx.bfloat16)
fused = mx.fast.scaled_dot_product_attention(keys[:, :, :1] * 0, keys, keys, scale=1.0)[0, 0, 0, 0].item()
print(f"fused attention of 4096 equal keys with values of 1: {fused:.2f}")
assert fused == 1
assert seen[mx.bfloat16][:2] == (1, 16) and seen[mx.bfloat16][2] > 1.5
assert seen[mx.float16][:2] == (1, 2)
assert all(abs(value - 1) < 1e-3 for value in seen[mx.float32])
PY
