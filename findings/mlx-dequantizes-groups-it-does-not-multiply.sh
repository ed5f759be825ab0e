#!/usr/bin/env bash
# MLX 0.32.4 (CPU build): affine packing in groups of 16.
# Guess: the three operations on packed weights take the same group sizes, or all refuse the same ones.
# What happens: mx.quantize and mx.quantized_matmul refuse groups of 16 (32, 64 and 128 are supported), mx.dequantize
#   unpacks them without a word. So a file of such weights loads and works as long as it is unpacked, and fails in the
#   first product where it is kept packed.
# Whom it hits: loaders that check a quantised file by unpacking it, and users who take the same file to another device.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "mlx[cpu]==0.32.4" numpy
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
import numpy as np

words = np.random.default_rng(0).integers(0, 2**32, (8, 8), dtype=np.uint32)
packed, scales, biases = mx.array(words), mx.full((8, 4), 0.5), mx.zeros((8, 4))
numbers = (words[:, :, None] >> (4 * np.arange(8)) & 15).reshape(8, 64) * 0.5

def outcome(work):
    try:
        found = work()
        mx.eval(found)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "right" if np.array_equal(np.array(found), numbers) else "computed"

seen = {
    "quantize": outcome(lambda: mx.quantize(mx.array(numbers, dtype=mx.float32), group_size=16, bits=4)[0]),
    "dequantize": outcome(lambda: mx.dequantize(packed, scales, biases, group_size=16, bits=4)),
    "quantized_matmul": outcome(lambda: mx.quantized_matmul(mx.ones((1, 64)), packed, scales, biases, group_size=16, bits=4)),
}
for name, what in seen.items():
    print(f"{name}, groups of 16: {what}")
assert seen["dequantize"] == "right"
assert "Error" in seen["quantize"] and "Error" in seen["quantized_matmul"]
PY
