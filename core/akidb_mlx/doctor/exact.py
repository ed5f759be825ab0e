"""What the devices' kernels should give: the textbook formulas in float64 NumPy, written without ours or MLX's."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.doctor.findings import Exact

__all__ = ["ACTIVATIONS", "POOLING", "attention", "attention_scores", "layer_norm", "rms_norm", "rotary", "softmax"]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def softmax(scores: Exact) -> Exact:
    """Over the last axis."""
    powers: Exact = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Exact = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def attention_scores(queries: Exact, keys: Exact, scale: float) -> Exact:
    """(rows, heads, length, channels) → (rows, heads, length, length); fewer keys' heads are shared by groups."""
    scores: Exact = queries @ np.repeat(keys, queries.shape[1] // keys.shape[1], axis=1).swapaxes(-1, -2) * scale
    return scores


def attention(scores: Exact, values: Exact, seen: NDArray[np.bool_]) -> Exact:
    """Values weighed by the softmax of scores, (rows, heads, length, channels); `seen` where a query sees a key."""
    values = np.repeat(values, scores.shape[1] // values.shape[1], axis=1)
    attended: Exact = softmax(np.where(seen, scores, -np.inf)) @ values
    return attended


def rotary(x: Exact, base: float, dims: int, *, interleaved: bool) -> Exact:
    """Turn the first `dims` of (rows, heads, length, channels), by the sines of transformers' float32 angles."""
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    frequencies = np.float32(1) / np.power(np.float32(base), exponents)
    angles = (np.arange(x.shape[2], dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    first, second = (
        (slice(0, dims, 2), slice(1, dims, 2)) if interleaved else (slice(dims // 2), slice(dims // 2, dims))
    )
    sines, cosines = np.sin(angles), np.cos(angles)
    turned = x.copy()
    turned[..., first] = x[..., first] * cosines - x[..., second] * sines
    turned[..., second] = x[..., first] * sines + x[..., second] * cosines
    return turned


def layer_norm(x: Exact, weight: Exact | float, bias: Exact | float, eps: float) -> Exact:
    """Over the last axis."""
    centred: Exact = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Exact, weight: Exact | float, eps: float) -> Exact:
    """Over the last axis."""
    scaled: Exact = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight
    return scaled


def _gelu(x: Exact) -> Exact:
    gelu: Exact = x * 0.5 * (1 + _erf(x / np.sqrt(2)))
    return gelu


def _gelu_by_tanh(x: Exact) -> Exact:
    gelu: Exact = x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return gelu


def _sigmoid(x: Exact) -> Exact:
    sigmoid: Exact = 1 / (1 + np.exp(-x))
    return sigmoid


ACTIVATIONS: dict[str, Callable[[Exact], Exact]] = {
    "gelu": _gelu,
    "gelu_10": lambda x: np.clip(_gelu(x), -10, 10),
    "gelu_accurate": _gelu_by_tanh,
    "gelu_fast": _gelu_by_tanh,
    "gelu_new": _gelu_by_tanh,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_by_tanh,
    "gelu_pytorch_tanh": _gelu_by_tanh,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "identity": lambda x: x,
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
}
# Of one text: (real tokens, width) → (width,).
POOLING: dict[str, Callable[[Exact], Any]] = {
    "cls": lambda tokens: tokens[0],
    "last_token": lambda tokens: tokens[-1],
    "max": lambda tokens: tokens.max(axis=0),
    "mean": lambda tokens: tokens.mean(axis=0),
    "mean_sqrt_len": lambda tokens: tokens.sum(axis=0) / np.sqrt(len(tokens)),
    "weighted_mean": lambda tokens: np.average(tokens, axis=0, weights=np.arange(1, len(tokens) + 1)),
}
