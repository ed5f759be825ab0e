"""Rotary positions (Su et al. 2021, arXiv:2104.09864) with frequencies as transformers computes them, in float32."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = [
    "Frequencies",
    "Rope",
    "check_rope_fields",
    "frequencies",
    "make_rope",
    "refuse_unread_scaling",
    "rope_parameters",
    "turned_channels",
]

Frequencies = NDArray[np.float32]
"""(dims / 2,) radians that a position turns each pair of channels by."""


class Rope:
    """Turns pairs of channels by position × frequency: (i, i + dims / 2), or interleaved (2i, 2i + 1)."""

    def __init__(self, inverse_frequencies: Frequencies, *, interleaved: bool = False, scale: float = 1.0) -> None:
        """Take `dims / 2` frequencies; MLX wants wavelengths, and its own `base` is off at long positions."""
        self._dims = 2 * len(inverse_frequencies)
        with np.errstate(divide="ignore"):  # what stands still has no end of a wave
            self._wavelengths = mx.array(1.0 / inverse_frequencies.astype(np.float32))
        self._interleaved = interleaved
        self._scale = scale

    def periods(self, head: int) -> mx.array | None:
        """(head / 2,) what positions are divided by, where it turns all pairs (i, i + head / 2) and does no more."""
        plain = self._dims == head and not self._interleaved and self._scale == 1
        return self._wavelengths if plain else None

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        """(rows, heads, length, channels) → the same shape; channels beyond `dims` pass.

        `offset` is the first token's position.
        """
        if self._scale != 1:  # the sines and cosines' factor
            turned, passed = x[..., : self._dims], x[..., self._dims :]
            x = mx.concatenate([turned * self._scale, passed], axis=-1)
        return mx.fast.rope(
            x, self._dims, traditional=self._interleaved, base=None, scale=1.0, offset=offset, freqs=self._wavelengths
        )


def rope_parameters(config: Mapping[str, Any], kind: str | None = None, *, whole: bool = False) -> dict[str, Any]:
    """The rotary settings in one form: transformers 5 nests them, earlier files have rope_theta and rope_scaling.

    `kind` is the layer type, where each has settings of its own; `whole` says that all channels of a head are turned.
    """
    parameters = _stated(config, kind)
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    if config.get("model_type") == "phi3":
        _rename_longrope(parameters)
    parameters.setdefault("rope_theta", config.get("rope_theta"))
    if config.get("partial_rotary_factor") is not None:
        parameters.setdefault("partial_rotary_factor", config["partial_rotary_factor"])
    part = parameters.get("partial_rotary_factor")
    if whole and part not in (None, 1) and parameters["rope_type"] != "proportional":
        raise UnsupportedModelError(
            f"config.json: partial_rotary_factor is {part!r}, which the reference does not obey for "
            f"{config.get('model_type')}; delete it"
        )
    _add_lengths(parameters, config)
    if parameters["rope_theta"] is None:
        raise CheckpointError("config.json has neither rope_parameters nor rope_theta")
    return parameters


def _stated(config: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    nested = config.get("rope_parameters")
    if nested is not None and config.get("rope_scaling") not in (None, {}, nested):
        raise UnsupportedModelError(
            "config.json has rope_scaling beside rope_parameters: delete the one that is not meant"
        )
    if nested is None:
        return dict(config.get("rope_scaling") or {})
    own = nested.get(kind) if kind is not None and isinstance(nested, dict) else nested
    if own is None:
        raise CheckpointError(f"config.json: rope_parameters says nothing of {kind}")
    if not isinstance(own, dict):
        raise CheckpointError(f"config.json: rope_parameters must be an object, not {own!r}")
    # The reference reads `truncate` beside the kinds' settings, not in them.
    return dict(own) if kind is None else {**own, "truncate": nested.get("truncate", True)}


def _rename_longrope(parameters: dict[str, Any]) -> None:
    """Phi-3's early names for it; the class looks for the trained length before it knows the first one's meaning."""
    if parameters["rope_type"] == "su" and "original_max_position_embeddings" not in parameters:
        raise UnsupportedModelError(
            "config.json: rotary settings of type 'su' lack original_max_position_embeddings, without which the "
            "reference fails; call the type 'longrope'"
        )
    if parameters["rope_type"] in ("su", "yarn"):
        parameters["rope_type"] = "longrope"


def _add_lengths(parameters: dict[str, Any], config: Mapping[str, Any]) -> None:
    """The length that was trained for, and a factor that is left to it."""
    kind = parameters["rope_type"]
    trained = config.get("original_max_position_embeddings")  # Phi-3's place for it
    if trained is not None and kind in ("llama3", "yarn", "longrope"):
        parameters["original_max_position_embeddings"] = trained
    parameters.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    left_out = parameters.get("factor", ...) is None or ("factor" not in parameters and kind == "longrope")
    if kind in ("yarn", "longrope") and left_out:
        parameters["factor"] = config["max_position_embeddings"] / parameters["original_max_position_embeddings"]


def refuse_unread_scaling(config: Mapping[str, Any]) -> None:
    """Where each kind of layer has settings of its own, the class reads `rope_type` of a rope_scaling and no `type`."""
    scaling = config.get("rope_scaling") or {}
    if "rope_type" not in scaling and scaling.get("type", "default") != "default":
        raise UnsupportedModelError(
            f"config.json: rope_scaling says type {scaling['type']!r}, which the reference does not read for "
            f"{config.get('model_type')}; call it rope_type if it is meant, else delete it"
        )


def make_rope(dims: int, parameters: Mapping[str, Any], *, interleaved: bool = False) -> Rope:
    """The rotary positions of heads with `dims` channels that `rope_parameters` describe."""
    kind = parameters["rope_type"]
    if kind not in _KINDS:
        raise UnsupportedModelError(
            f"config.json: rope_type {kind!r} is not supported; supported: {', '.join(map(repr, _KINDS))}"
        )
    check_rope_fields(parameters)
    turned = dims if kind == "proportional" else turned_channels(dims, parameters)
    try:
        with np.errstate(all="ignore"):  # what comes of it is looked at below
            found, scale = _KINDS[kind](turned, parameters)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json: rope_type {kind!r} lacks a setting or has a wrong one ({error!r})"
        ) from None
    positive = found >= 0 if kind == "proportional" else found > 0
    if not (np.isfinite(found) & positive).all():
        raise CheckpointError(f"config.json: the rotary settings give no positive frequencies ({dict(parameters)!r})")
    return Rope(found, interleaved=interleaved, scale=scale)


def check_rope_fields(parameters: Mapping[str, Any]) -> None:
    """Refuse rotary settings of which nobody here knows what they mean."""
    unknown = sorted(parameters.keys() - _FIELDS.split())
    if unknown:
        raise UnsupportedModelError(f"config.json: {unknown[0]!r} among the rotary settings is not known here")


def turned_channels(dims: int, parameters: Mapping[str, Any]) -> int:
    """How many of a head's `dims` channels are turned; the others pass."""
    return int(dims * (parameters.get("partial_rotary_factor") or 1.0))


def _default(dims: int, parameters: Mapping[str, Any]) -> tuple[Frequencies, float]:
    """`base ** (-2i / dims)` for i in 0 … dims / 2 - 1."""
    return frequencies(dims, float(parameters["rope_theta"])), 1.0


def _linear(dims: int, parameters: Mapping[str, Any]) -> tuple[Frequencies, float]:
    """Positions interpolated by a factor."""
    return _default(dims, parameters)[0] / np.float32(parameters["factor"]), 1.0


def _proportional(dims: int, parameters: Mapping[str, Any]) -> tuple[Frequencies, float]:
    """Gemma 4's: the first pairs turn as if all did, the others stand still."""
    part, factor = parameters.get("partial_rotary_factor"), parameters.get("factor")
    pairs = int((1.0 if part is None else part) * dims // 2)
    turning = np.where(np.arange(dims // 2) < pairs, frequencies(dims, float(parameters["rope_theta"])), 0)
    return (turning / np.float32(1.0 if factor is None else factor)).astype(np.float32), 1.0


def _ntk(dims: int, parameters: Mapping[str, Any]) -> tuple[Frequencies, float]:
    """GTE's ("new") fixed NTK scaling: base and frequencies both give way, the first fully, the last not at all."""
    factor = float(parameters["factor"])
    return frequencies(dims, float(parameters["rope_theta"]) * factor) / np.float32(factor ** (2 / dims)), 1.0


def _llama3(dims: int, parameters: Mapping[str, Any]) -> tuple[Frequencies, float]:
    """Llama 3.1's: long wavelengths interpolated, short ones kept, a ramp between."""
    plain, _ = _default(dims, parameters)
    factor, trained = float(parameters["factor"]), float(parameters["original_max_position_embeddings"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    turns = np.float32(trained) / (np.float32(2 * math.pi) / plain)  # within the trained length
    ramp = np.clip((turns - np.float32(low)) / np.float32(high - low), 0, 1)
    return (1 - ramp) * plain / np.float32(factor) + ramp * plain, 1.0


def _yarn(dims: int, parameters: Mapping[str, Any]) -> tuple[Frequencies, float]:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): a ramp over the channels, and a factor on sines and cosines."""
    plain, _ = _default(dims, parameters)
    base, factor = float(parameters["rope_theta"]), float(parameters["factor"])
    trained = float(parameters["original_max_position_embeddings"])

    def channel(turns: float) -> float:
        """The channel that turns so often within the trained length."""
        return dims * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = channel(parameters.get("beta_fast") or 32), channel(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    width = (last - first) or 0.001
    ramp = np.clip((np.arange(dims // 2, dtype=np.float32) - np.float32(first)) / np.float32(width), 0, 1)
    return plain / np.float32(factor) * ramp + plain * (1 - ramp), _yarn_scale(factor, parameters)


def _yarn_scale(factor: float, parameters: Mapping[str, Any]) -> float:
    def grown(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return grown(parameters["mscale"]) / grown(parameters["mscale_all_dim"])
    return grown(1.0)


def frequencies(dims: int, base: float) -> Frequencies:
    """`base ** (-2i / dims)` for i in 0 … dims / 2 - 1, in float32 as torch has them."""
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return (1.0 / np.power(np.float32(base), exponents, dtype=np.float32)).astype(np.float32)


_KINDS: dict[str, Callable[[int, Mapping[str, Any]], tuple[Frequencies, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "ntk": _ntk,
    "proportional": _proportional,
    "yarn": _yarn,
}
_FIELDS = """
    type rope_type rope_theta factor partial_rotary_factor original_max_position_embeddings low_freq_factor
    high_freq_factor beta_fast beta_slow attention_factor mscale mscale_all_dim truncate short_factor long_factor
"""
