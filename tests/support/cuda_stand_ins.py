"""CUDA's kernels by MLX's own operations, to test on any device what is computed with them."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.layers import cuda_kernels

__all__ = ["KERNELS", "use"]


def add_layer_norm(x, y, weight, bias, eps):
    return mx.fast.layer_norm(x + y, weight, bias, eps)


def add_rms_norm(x, y, weight, eps):
    return x + y, mx.fast.rms_norm(x + y, weight, eps)


def gelu(x):
    return nn.gelu(x)


def silu_gate(x):
    gate, up = mx.split(x, 2, axis=-1)
    return nn.silu(gate) * up


def mean_pool(hidden, lengths, starts):
    positions = mx.arange(hidden.shape[1])[None]
    real = positions < lengths[:, None]
    counts = (real & (positions >= starts[:, None])).astype(mx.float32)
    mean = (counts[:, None] @ hidden.astype(mx.float32))[:, 0] / mx.maximum(counts.sum(1, keepdims=True), 1e-9)
    computed = mx.all(mx.any(hidden != 0, axis=-1) | ~real, axis=1)
    return mx.where(computed[:, None], mean, mx.inf)


def rope_of_heads(qkv, heads, kv_heads, periods, norms):
    parts = qkv.reshape(*qkv.shape[:2], heads + 2 * kv_heads, -1)
    queries, keys = parts[:, :, :heads], parts[:, :, heads : heads + kv_heads]
    if norms is not None:
        queries, keys = (mx.fast.rms_norm(x, norms[at], norms[2]) for at, x in enumerate((queries, keys)))
    head = parts.shape[-1]
    how = {"traditional": False, "base": None, "scale": 1.0, "offset": 0, "freqs": periods}
    return tuple(mx.fast.rope(x.swapaxes(1, 2), head, **how).swapaxes(1, 2) for x in (queries, keys))


KERNELS = {
    kernel.__name__: kernel for kernel in (add_layer_norm, add_rms_norm, gelu, silu_gate, mean_pool, rope_of_heads)
}


def use(monkeypatch):
    """Compute with these wherever CUDA's kernels would serve; the set that comes back tells which did."""
    used = set()

    def counted(name, kernel):
        def call(*args):
            used.add(name)
            return kernel(*args)

        return call

    monkeypatch.setattr(cuda_kernels, "_on_gpu", lambda: True)
    monkeypatch.setattr(cuda_kernels, "_work", lambda: True)
    monkeypatch.setattr(cuda_kernels, "_MANY", 0)
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(cuda_kernels, name, counted(name, kernel))
    return used
