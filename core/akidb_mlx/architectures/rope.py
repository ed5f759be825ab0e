"""Rotary positions (Su et al. 2021, arXiv:2104.09864) with frequencies as transformers computes them, in float32."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Rope", "frequencies", "make_rope", "rope_parameters"]


class Rope:
    """Turns pairs of channels (i, i + dims / 2) by position × frequency."""

    def __init__(self, inverse_frequencies: NDArray[np.float32]) -> None:
        """Take `dims / 2` frequencies; MLX wants wavelengths, and its own `base` is off at long positions."""
        self._dims = 2 * len(inverse_frequencies)
        self._wavelengths = mx.array(1.0 / inverse_frequencies.astype(np.float32))

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, heads, length, channels) → the same shape; channels beyond `dims` pass."""
        return mx.fast.rope(
            x, self._dims, traditional=False, base=None, scale=1.0, offset=0, freqs=self._wavelengths
        )


def frequencies(dims: int, base: float) -> NDArray[np.float32]:
    """`base ** (-2i / dims)` for i in 0 … dims / 2 - 1."""
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return (1.0 / np.power(np.float32(base), exponents, dtype=np.float32)).astype(np.float32)


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings in one form: transformers 5 nests them, earlier files have `rope_theta` and `rope_scaling`."""
    nested = config.get("rope_parameters")
    if nested is not None:
        if not isinstance(nested, dict):
            raise CheckpointError(f"config.json: rope_parameters must be an object, not {nested!r}")
        return dict(nested)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if config.get("rope_theta") is None:
        raise CheckpointError("config.json has neither rope_parameters nor rope_theta")
    return {**scaling, "rope_type": kind, "rope_theta": config["rope_theta"]}


def make_rope(dims: int, parameters: Mapping[str, Any]) -> Rope:
    """The rotary positions that `rope_parameters` describe."""
    kind, base = parameters.get("rope_type", "default"), float(parameters["rope_theta"])
    if kind == "default":
        return Rope(frequencies(dims, base))
    if kind == "linear":
        return Rope(frequencies(dims, base) / np.float32(parameters["factor"]))
    if kind == "ntk":
        # GTE's ("new") fixed NTK scaling: base and frequencies both give way, the first fully, the last not at all.
        factor = float(parameters["factor"])
        return Rope(frequencies(dims, base * factor) / np.float32(factor ** (2 / dims)))
    raise UnsupportedModelError(f"config.json: rope_type {kind!r} is not supported for this architecture")
