"""Floats → packed weights, by MLX's own quantiser: which layers are packed, and how each of them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from akidb_mlx.errors import ConfigError, UnsupportedModelError
from akidb_mlx.model.architectures import Backbone
from akidb_mlx.model.architectures.base import rename
from akidb_mlx.model.architectures.decoder import Decoder
from akidb_mlx.model.architectures.mixtures import own_name, stack_experts
from akidb_mlx.model.layers.experts import ExpertLinear
from akidb_mlx.model.quantization import PACKINGS
from akidb_mlx.model.weights import Weights

__all__ = ["MIXES", "MODES", "Packed", "Packing", "pack", "settle_mix", "settle_packing"]


@dataclass(frozen=True)
class Packing:
    """How a layer is packed."""

    mode: str
    bits: int
    group_size: int

    def __str__(self) -> str:
        return f"{self.bits} bit {self.mode} in groups of {self.group_size}"

    def said(self) -> dict[str, Any]:
        """As config.json has it, in mlx-lm's words."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}


@dataclass(frozen=True)
class Packed:
    """What becomes of a checkpoint's weights; arrays are computed when they are written."""

    weights: Weights
    settings: dict[str, Any]
    """What config.json says: the packing, and by name that of each layer which has another."""
    layers: int
    """How many are packed."""


# Mode → bits and group size where nobody says others: mlx-lm's, but for affine's bits.
_DEFAULTS: Final[Mapping[str, tuple[int, int]]] = {
    "affine": (8, 64),
    "mxfp4": (4, 32),
    "mxfp8": (8, 32),
    "nvfp4": (4, 16),
}
MODES: Final = tuple(_DEFAULTS)
# What token ids look up. Tables of positions and of token types are small and stay floats.
_WORDS: Final = frozenset({"embed_tokens", "shared", "word"})
_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|groups)\.(\d+)\.")
Mix = Callable[[Packing, int | None, int], Packing]


def _alike(wanted: Packing, layer: int | None, last: int) -> Packing:
    return wanted


def _edges(wanted: Packing, layer: int | None, last: int) -> Packing:
    return _eight(wanted) if layer in (None, 0, last) else wanted


def _layers(wanted: Packing, layer: int | None, last: int) -> Packing:
    return wanted if layer is None else _eight(wanted)


def _eight(wanted: Packing) -> Packing:
    """Eight bits of the same kind, in groups that divide what the wanted ones divide."""
    return Packing("affine", 8, wanted.group_size) if wanted.mode == "affine" else Packing("mxfp8", 8, 32)


MIXES: Final[Mapping[str, Mix]] = {"alike": _alike, "edges8": _edges, "layers8": _layers}
"""Name → a layer's packing, by its number (None: it is before them, as the table of words) and the last one's."""


def settle_packing(mode: str = "affine", bits: int | None = None, group_size: int | None = None) -> Packing:
    """What the user wants; ConfigError where MLX has no such packing."""
    if mode not in _DEFAULTS:
        raise ConfigError(f"mode is {mode!r}; it may be {', '.join(_DEFAULTS)}")
    default_bits, default_group = _DEFAULTS[mode]
    wanted = Packing(mode, default_bits if bits is None else bits, default_group if group_size is None else group_size)
    known = [Packing(*one) for one in PACKINGS if one[0] == mode]
    if wanted not in known:
        sizes = [", ".join(str(n) for n in sorted({getattr(one, k) for one in known})) for k in ("bits", "group_size")]
        raise ConfigError(f"MLX packs no {wanted}; of {mode} bits may be {sizes[0]}, and group_size {sizes[1]}")
    return wanted


def settle_mix(name: str) -> Mix:
    """The mix of this name; ConfigError where there is none."""
    if name not in MIXES:
        raise ConfigError(f"mix is {name!r}; it may be {', '.join(MIXES)}")
    return MIXES[name]


def pack(weights: Weights, backbone: Backbone, wanted: Packing, mix: Mix, file: Path, *, words: bool = True) -> Packed:
    """Pack the layers that `backbone` multiplies by, and its table of words; what else there is stays as it is.

    Args:
        weights: under the checkpoint's names, which they keep, but for a decoder's, which become mlx-lm's.
        backbone: whose layers they are.
        wanted: how to pack what the mix does not pack otherwise.
        mix: one of MIXES.
        words: whether the table of words is packed too.
        file: what errors name.

    Raises:
        UnsupportedModelError: groups do not divide a layer's input, or no layer can be packed.
    """
    weights = _as_mlx_lm(backbone, weights) if isinstance(backbone, Decoder) else _with_experts(backbone, weights)
    names = {name: _own_name(backbone, name, weight) for name, weight in weights.items()}
    modules, wide = dict(backbone.named_modules()), dict[str, str]()
    for name, own in names.items():
        path = _module(backbone, own)
        module = modules.get(path) if own.endswith(".weight") else None
        is_table = isinstance(module, nn.Embedding) and path.rpartition(".")[2] in _WORDS
        if isinstance(module, nn.Linear | ExpertLinear) or (is_table and words):
            wide[name] = own
    if not wide:
        raise UnsupportedModelError(f"{file}: this architecture has no layers that are packed")
    numbers = {name: int(found[1]) if (found := _LAYER.search(own)) else None for name, own in wide.items()}
    last = max((number for number in numbers.values() if number is not None), default=0)
    packings = {name: mix(wanted, number, last) for name, number in numbers.items()}
    _check_divided({name: (weights[name].shape[-1], packing) for name, packing in packings.items()}, file)
    packed: Weights = {}
    settings = wanted.said()
    for name, weight in weights.items():
        if name not in packings:
            packed[name] = weight
            continue
        path, packing = name.removesuffix(".weight"), packings[name]
        try:
            parts = mx.quantize(weight, packing.group_size, packing.bits, mode=packing.mode)
        except ValueError as error:  # MLX 0.32's nvfp4 wants numbers by the 32, so that 101 rows of 16 are refused
            raise UnsupportedModelError(f"{file}: MLX does not pack {name} to {packing} ({error})") from None
        packed.update(zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=False))
        if packing != wanted:
            settings[path] = packing.said()
    return Packed(packed, settings, len(packings))


def _own_name(backbone: Backbone, name: str, weight: mx.array) -> str:
    """What the backbone calls it, by itself; "" where it has no use for it."""
    if isinstance(backbone, Decoder):  # whose sanitize changes layers too
        return own_name(next(iter(rename({name: weight}, backbone.renames))))
    return next(iter(backbone.sanitize({name: weight})), "")


def _as_mlx_lm(backbone: Decoder, weights: Weights) -> Weights:
    """Under mlx-lm's names, all experts of a layer in one array; heads keep theirs."""
    own = set(dict(tree_flatten(backbone.parameters())))
    renamed: Weights = {}
    for name, weight in weights.items():
        theirs = next(iter(rename({name: weight}, backbone.renames)))
        renamed[theirs if backbone.has_experts or theirs in own else name] = weight
    return stack_experts(renamed) if backbone.has_experts else renamed


def _with_experts(backbone: Backbone, weights: Weights) -> Weights:
    """With all experts of a layer in one array by our name, where an encoder's file has them below one another."""
    modules = dict(backbone.named_modules())
    changed: Weights = {}
    for name, weight in weights.items():
        own = _own_name(backbone, name, weight)
        has_experts = isinstance(modules.get(own.removesuffix(".weight")), ExpertLinear)
        changed.update(backbone.sanitize({name: weight}) if has_experts else {name: weight})
    return changed


def _module(backbone: Backbone, own: str) -> str:
    """The path of the layer that has it, which may join several of the checkpoint's."""
    path = own.removesuffix(".weight")
    for joined, parts in backbone.fused.items():
        for part in parts:
            if path.endswith(f".{part}"):
                return path.removesuffix(part) + joined
    return path


def _check_divided(widths: Mapping[str, tuple[int, Packing]], file: Path) -> None:
    odd = {name: width for name, (width, packing) in widths.items() if width % packing.group_size}
    if not odd:
        return
    name = min(odd, key=lambda one: (odd[one], one))
    packing = widths[name][1]
    fitting = [
        str(Packing(*one))
        for one in PACKINGS
        if all(width % one[2] == 0 for width, _ in widths.values()) and one[1] == packing.bits
    ]
    advice = f"take {' or '.join(fitting)}" if fitting else "no group size of MLX's divides them all"
    raise UnsupportedModelError(
        f"{file}: {name} has {odd[name]} inputs, which groups of {packing.group_size} do not divide "
        f"(so {len(odd)} of {len(widths)} layers); {advice}"
    )
