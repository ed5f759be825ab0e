"""A gated convolution over few tokens, each channel for itself (LFM2)."""

import mlx.core as mx
import mlx.nn as nn

__all__ = ["ShortConvolution"]


class ShortConvolution(nn.Module):
    """`out(C × conv(B × u))`, where one product of matrices gives B, C and u."""

    def __init__(self, width: int, kernel: int, *, bias: bool, centred: bool) -> None:
        """Make it over `kernel` tokens: the last of them, or with `centred` the middle one, is the token itself."""
        super().__init__()
        self.gates = nn.Linear(width, 3 * width, bias=bias)
        self.kernel = mx.zeros((width, kernel))
        if bias:
            self.bias = mx.zeros(width)
        self.out = nn.Linear(width, width, bias=bias)
        self.before = kernel // 2 if centred else kernel - 1
        self.after = kernel - 1 - self.before

    def __call__(self, x: mx.array, kept: mx.array | None) -> mx.array:
        """(rows, length, width) → the same shape; `kept` is (rows, length), True on tokens that are more than zeros."""
        if kept is not None:
            x = mx.where(kept[..., None], x, 0)
        before, after, values = mx.split(self.gates(x), 3, axis=-1)
        values, length = before * values, x.shape[1]
        values = mx.pad(values, [(0, 0), (self.before, self.after), (0, 0)])
        taps = range(self.before + self.after + 1)
        mixed = sum(values[:, tap : tap + length] * self.kernel[:, tap] for tap in taps)
        return self.out(after * (mixed + self.bias if "bias" in self else mixed))
