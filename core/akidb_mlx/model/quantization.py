"""Weights packed by mlx-lm's converter: affine 1–8 bit, mxfp4, mxfp8, nvfp4; kept as they are, or made floats again.

How a layer is packed follows from the shapes and dtypes of its parts, given how wide its input is; so overrides
for single layers need no names, which differ between conversions.
"""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.layers.experts import Router

__all__ = [
    "PACKINGS",
    "check_computed",
    "check_quantization",
    "dequantize",
    "packed",
    "quantize_modules",
    "unpack_products",
]

Weights = dict[str, mx.array]
Packing = dict[str, Any]  # group_size, bits, mode

_AFFINE_BITS, _AFFINE_GROUPS = (1, 2, 3, 4, 5, 6, 8), (32, 64, 128)
# Modes whose scales are bytes: (bits, group size) tells which.
_BYTE_SCALES = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
_MODES = ("affine", *_BYTE_SCALES.values())
_GROUPS_WITHOUT_FLOAT32 = 128
_PACKED_BELOW = 1024  # rows of a product
_SMALL_MODEL = 2 << 30  # weights
_BITSANDBYTES = frozenset({"load_in_8bit", "load_in_4bit"})  # its settings before they named a method
PACKINGS = (
    *(("affine", bits, group_size) for bits in _AFFINE_BITS for group_size in _AFFINE_GROUPS),
    *((mode, bits, group_size) for (bits, group_size), mode in _BYTE_SCALES.items()),
)
"""(mode, bits, group size) of each packing that is computed here."""


def packed(weights: Mapping[str, mx.array]) -> set[str]:
    """Layers that are quantised: those with scales."""
    return {key.removesuffix(".scales") for key in weights if key.endswith(".scales")}


def check_quantization(said: Mapping[str, Any] | None, layers: Set[str], file: Path) -> None:
    """Refuse what was packed by something else than MLX, and weights that contradict config.json."""
    if said is None:
        if layers:
            raise CheckpointError(f"{file} says nothing of quantization, but {min(layers)} is quantised")
        return
    method = said.get("quant_method") or ("bitsandbytes" if _BITSANDBYTES & said.keys() else None)
    if method is not None:
        raise UnsupportedModelError(
            f"{file}: weights quantised with {method!r} are not supported; "
            "take the original weights, or an MLX conversion (mlx_lm.convert)"
        )
    for settings in (said, *(value for value in said.values() if isinstance(value, Mapping))):
        mode = settings.get("mode", "affine")
        if mode not in _MODES:
            raise UnsupportedModelError(f"{file}: quantization mode {mode!r}; known: {', '.join(_MODES)}")


def check_computed(weights: Weights, modules: Mapping[str, nn.Module], kind: str, dtype: str, file: Path) -> None:
    """Refuse what MLX does not compute on this `kind` of device in this dtype.

    On CUDA numbers of 1 bit come out wrong, and in float32 no kernel for more than some rows takes groups of 128.
    """
    if kind != "cuda":
        return
    for path in packed(weights) & modules.keys():
        packing = _packing(path, modules[path], weights, file)
        if packing["bits"] == 1:
            raise UnsupportedModelError(
                f"{file.parent}: {path} is packed to 1 bit, which MLX does not compute on CUDA; "
                'take another conversion, or device="cpu"'
            )
        if dtype == "float32" and packing["group_size"] == _GROUPS_WITHOUT_FLOAT32:
            raise UnsupportedModelError(
                f"{file.parent}: {path} is packed in groups of {_GROUPS_WITHOUT_FLOAT32}, which MLX does not multiply "
                'in float32 on CUDA; set dtype="bfloat16", or device="cpu"'
            )


class PackedEmbedding(nn.QuantizedEmbedding):
    """A packed table; its rows are in the dtype that the model computes in, where MLX's own may be bfloat16."""

    def __call__(self, token_ids: mx.array) -> mx.array:
        """(…,) → (…, width)."""
        if self.mode == "nvfp4" and self.scales.shape[-1] % 2:  # MLX 0.32 unpacks pairs of its groups
            ids = token_ids.reshape(-1)
            rows = self._rows(mx.concatenate([ids, ids]))[: ids.size]
            return rows.reshape(*token_ids.shape, -1)
        return self._rows(token_ids)

    def _rows(self, token_ids: mx.array) -> mx.array:
        biases = self.get("biases")
        return mx.dequantize(
            self.weight[token_ids],
            self.scales[token_ids],
            None if biases is None else biases[token_ids],
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=self.computed_in,
        )


class UnpackedLinear(nn.QuantizedLinear):
    """A packed layer whose weights are unpacked for each product, in the dtype of what they are multiplied with.

    On CUDA MLX 0.32 compiles its packed products for some 30 s for each of three sizes, and they are slower than this
    from a thousand rows on.
    """

    def __call__(self, x: mx.array) -> mx.array:
        """(…, channels in) → (…, channels out)."""
        if self.packed_below > x.size // x.shape[-1]:
            packed_product: mx.array = super().__call__(x)
            return packed_product
        how = {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}
        weight = mx.dequantize(self.weight, self.scales, self.get("biases"), **how, dtype=x.dtype)
        return mx.addmm(self.bias, x, weight.T) if "bias" in self else x @ weight.T


def unpack_products(module: nn.Module) -> None:
    """Have the packed layers of `module` unpacked for each product; those of large models for many rows only.

    Unpacked for few rows, a large model's weights would take longer to write and read than the product.
    """
    layers = [layer for layer in module.modules() if type(layer) is nn.QuantizedLinear]
    numbers = sum(layer.weight.size * 32 // layer.bits for layer in layers)
    for layer in layers:
        if layer.mode != "nvfp4" or layer.scales.shape[-1] % 2 == 0:  # MLX 0.32 unpacks pairs of its groups
            layer.__class__ = UnpackedLinear
            layer.packed_below = _PACKED_BELOW if numbers > _SMALL_MODEL else 0


def quantize_modules(module: nn.Module, weights: Weights, file: Path, dtype: mx.Dtype) -> None:
    """Make the layers of `module` quantised whose weights are, for a model that computes in `dtype`."""
    layers = packed(weights)
    if not layers:
        return

    def how(path: str, layer: nn.Module) -> Packing | bool:
        return _packing(path, layer, weights, file) if path in layers else False

    nn.quantize(module, class_predicate=how)
    for _, layer in module.named_modules():
        if isinstance(layer, nn.QuantizedEmbedding):
            layer.__class__ = PackedEmbedding
            layer.computed_in = dtype


def dequantize(module: nn.Module, weights: Weights, file: Path, *, routers_only: bool = False) -> Weights:
    """The weights with floats (float32) for what is quantised; `module` says how wide each layer's input is.

    Tables stay packed: of them only the rows that are looked up become floats, to the same numbers. `routers_only`:
    so does all else, but for what chooses among experts.
    """
    modules = dict(module.named_modules())
    weights = dict(weights)
    for path in packed(weights):
        if path not in modules or isinstance(modules[path], nn.Embedding):
            continue  # what belongs nowhere is left over: loading will say so
        if routers_only and not isinstance(modules[path], Router):
            continue
        packing = _packing(path, modules[path], weights, file)
        scales, biases = weights.pop(f"{path}.scales"), weights.pop(f"{path}.biases", None)
        if packing["mode"] == "affine":
            assert biases is not None
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        weight = weights[f"{path}.weight"]
        weights[f"{path}.weight"] = mx.dequantize(weight, scales, biases, **packing, dtype=mx.float32)
    return weights


def _packing(path: str, layer: nn.Module, weights: Weights, file: Path) -> Packing:
    """Group size, bits and mode of one layer."""
    weight, scales = weights.get(f"{path}.weight"), weights[f"{path}.scales"]
    if weight is None or "weight" not in layer or weight.dtype != mx.uint32:
        raise CheckpointError(f"{file.parent}: {path} has scales, but no quantised weight")
    width = layer.weight.shape[-1]
    bits, rest = divmod(weight.shape[-1] * 32, width)
    group_size, uneven = divmod(width, scales.shape[-1])
    is_affine = scales.dtype != mx.uint8
    known = bits in _AFFINE_BITS and group_size in _AFFINE_GROUPS if is_affine else (bits, group_size) in _BYTE_SCALES
    if rest or uneven or not known or is_affine is not (f"{path}.biases" in weights):
        raise CheckpointError(
            f"{file.parent}: {path} is packed to {weight.shape} with scales of {scales.shape} {scales.dtype}, "
            f"which does not fit an input of {width} channels (config.json)"
        )
    return {"group_size": group_size, "bits": bits, "mode": "affine" if is_affine else _BYTE_SCALES[bits, group_size]}
