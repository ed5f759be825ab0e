"""A sum and its norm, by the device's fastest way."""

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.model.layers import cuda_kernels

__all__ = ["norm_of_sum", "sum_and_norm"]


def norm_of_sum(norm: nn.LayerNorm, x: mx.array, y: mx.array) -> mx.array:
    """`norm(x + y)` of (rows, length, width) or (tokens, width); `y` may be the same for all rows, (length, width)."""
    serves = cuda_kernels.serves(x, widest=cuda_kernels.WIDEST_NORM)
    if serves and "bias" in norm and x.dtype == norm.weight.dtype == y.dtype:
        return cuda_kernels.add_layer_norm(x, y, norm.weight, norm.bias, norm.eps)
    return mx.fast.layer_norm(x + y, norm.get("weight"), norm.get("bias"), norm.eps)


def sum_and_norm(norm: nn.Module, x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
    """`x + y`, (rows, length, width), and `norm` of it."""
    serves = cuda_kernels.serves(x, widest=cuda_kernels.WIDEST_NORM)
    if serves and isinstance(norm, nn.RMSNorm) and x.dtype == norm.weight.dtype == y.dtype:
        return cuda_kernels.add_rms_norm(x, y, norm.weight, norm.eps)
    total = x + y
    return total, norm(total)
