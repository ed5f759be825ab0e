"""Facts → a live model: weights under our names, dtype, quantisation, Dense; nothing missing or left over."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from akidb_mlx.architectures import Backbone, make_backbone
from akidb_mlx.checkpoint import Checkpoint, Dense
from akidb_mlx.device import Device
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model import DenseLayer, EmbeddingModel

__all__ = ["load_model", "read_header"]

_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
Weights = dict[str, mx.array]


def load_model(
    checkpoint: Checkpoint, pooling: Sequence[str], device: Device, dtype: str | None = None
) -> EmbeddingModel:
    """Load a checkpoint's weights; call it on the thread that will compute."""
    backbone = make_backbone(checkpoint.config)
    weights, stored = _read_weights(checkpoint.weight_files)
    in_main_file = tuple(layer.name for layer in checkpoint.dense if layer.weight_file is None)
    dense_weights = (
        {key: weights.pop(key) for key in list(weights) if key.startswith(in_main_file)} if in_main_file else {}
    )
    weights = backbone.sanitize(weights)
    weights = {key: weight for key, weight in weights.items() if not _ignored(key, backbone)}
    compute = getattr(mx, device.dtype(stored, dtype))
    if checkpoint.quantization is not None:
        weights = _quantize(backbone, weights, checkpoint.quantization, keep=device.keeps_quantization)
    _load(backbone, _cast(weights, compute, backbone), checkpoint.weight_files[0])
    dense = [_load_dense(layer, dense_weights, checkpoint) for layer in checkpoint.dense]
    model = EmbeddingModel(backbone, pooling, dense)
    model.eval()
    mx.eval(model.parameters())
    return model


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name → dtype, shape and offsets of each tensor of a safetensors file; CheckpointError if it was cut short."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if not 0 < length <= size - 8:
                raise ValueError("its header is cut short")
            header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if 8 + length + end != size:
            raise ValueError(f"it should have {8 + length + end} bytes and has {size}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is no whole safetensors file ({error}); download it again") from None
    return header


def _read_weights(files: Sequence[Path]) -> tuple[Weights, str]:
    """All tensors and the float dtype that most of their bytes have."""
    weights: Weights = {}
    sizes: dict[str, int] = {}
    for file in files:
        for tensor in read_header(file).values():
            first, last = tensor["data_offsets"]
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + last - first
        try:
            loaded = mx.load(str(file), format="safetensors")
        except Exception as error:  # MLX raises RuntimeError and ValueError
            raise CheckpointError(f"{file} cannot be loaded ({error})") from None
        assert isinstance(loaded, dict)
        weights.update(loaded)
    floats = {name: size for name, size in sizes.items() if name in _FLOATS}
    if not floats:
        raise CheckpointError(f"{files[0]} holds no float weights, but {sorted(sizes)}")
    return weights, _FLOATS[max(floats, key=lambda name: floats[name])]


def _ignored(key: str, backbone: Backbone) -> bool:
    return any(re.match(pattern, key) for pattern in backbone.ignored_weights)


def _cast(weights: Weights, dtype: mx.Dtype, backbone: Backbone) -> Weights:
    """Floats in the dtype to compute in; the scales of quantised weights stay as they are."""
    quantized = {key.removesuffix("scales") for key in weights if key.endswith(".scales")}
    kept = {f"{path}{kind}" for path in quantized for kind in ("weight", "scales", "biases")}
    return {
        key: weight.astype(dtype) if key not in kept and mx.issubdtype(weight.dtype, mx.floating) else weight
        for key, weight in weights.items()
    }


def _quantize(backbone: Backbone, weights: Weights, quantization: Mapping[str, Any], *, keep: bool) -> Weights:
    raise UnsupportedModelError("config.json: quantised weights are not supported yet")


def _load(module: nn.Module, weights: Weights, file: Path) -> None:
    """Fill all parameters of `module`; an error names what is missing, left over or of another shape."""
    wanted = dict(tree_flatten(module.parameters()))
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        raise CheckpointError(f"{file} lacks {_some(missing)}; the checkpoint is incomplete or of another kind")
    extra = sorted(weights.keys() - wanted.keys())
    if extra:
        raise UnsupportedModelError(
            f"{file} has weights that this architecture does not use: {_some(extra)}; its vectors would be wrong"
        )
    for key, weight in weights.items():
        if weight.shape != wanted[key].shape:
            raise CheckpointError(f"{file}: {key} has shape {weight.shape}; config.json wants {wanted[key].shape}")
    module.load_weights(list(weights.items()))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _load_dense(spec: Dense, in_main_file: Weights, checkpoint: Checkpoint) -> DenseLayer:
    layer = DenseLayer(
        spec.in_features,
        spec.out_features,
        bias=spec.bias,
        activation=spec.activation,
        residual=spec.residual,
    )
    if spec.weight_file is not None:
        weights, _ = _read_weights([spec.weight_file])
    else:
        prefix = f"{spec.name}."
        weights = {
            f"linear.{key.removeprefix(prefix)}": weight
            for key, weight in in_main_file.items()
            if key.startswith(prefix)
        }
    file = spec.weight_file or checkpoint.weight_files[0]
    _load(layer, {key: weight.astype(mx.float32) for key, weight in weights.items()}, file)
    return layer
