#!/usr/bin/env bash
# mlx 0.32.4 on a CPU: one matrix of several, taken out by its number.
# Guess: w[3] is a view, as in NumPy and torch, and as w[3:4] is; or else every form with an integer makes a copy.
# What happens: w[3] alone copies the matrix. w[3, ...], w[3, :], mx.take(w, 3, axis=0) and a loop over w copy nothing.
# Whom it hits: x @ w[expert].T of a mixture of experts reads and writes each matrix once more than the product reads it: with
# 4 tokens, matrices of 768 x 3072 and a tuned BLAS a product took five times as long here as with w[expert, ...].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "mlx[cpu]==0.32.4"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx

mx.set_default_device(mx.cpu)
w = mx.random.normal((8, 512, 512))
mx.eval(w)
forms = {
    "w[3]": lambda: w[3],
    "w[3, ...]": lambda: w[3, ...],
    "w[3, :]": lambda: w[3, :],
    "w[3:4] squeezed": lambda: w[3:4].squeeze(0),
    "mx.take(w, 3, axis=0)": lambda: mx.take(w, 3, axis=0),
    "list(w)[3]": lambda: list(w)[3],
}
taken = {}
for name, form in forms.items():
    before = mx.get_active_memory()
    one = form()
    mx.eval(one)
    taken[name] = mx.get_active_memory() - before
    assert mx.array_equal(one, w[3:4].squeeze(0))
    del one
for name, size in taken.items():
    print(f"{name:24} {size:8} bytes more")
copied = [name for name, size in taken.items() if size >= 512 * 512 * 4]
assert copied == ["w[3]"], copied
PY
