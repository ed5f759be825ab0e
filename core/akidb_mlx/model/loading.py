"""Facts → a live model: weights under our names, dtype, quantisation, Dense; nothing missing or left over."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from akidb_mlx.checkpoint.facts import Checkpoint, Dense
from akidb_mlx.checkpoint.safetensors_header import read_float_dtype, read_header
from akidb_mlx.device.choice import Device
from akidb_mlx.errors import BackendError, CheckpointError, UnsupportedModelError
from akidb_mlx.model.activation_memory import Activations
from akidb_mlx.model.architectures import Backbone, make_backbone
from akidb_mlx.model.embedding_model import EmbeddingModel
from akidb_mlx.model.heads.dense import DenseLayer
from akidb_mlx.model.quantization import check_computed, check_quantization, dequantize, packed, quantize_modules

__all__ = ["load_model", "read_header"]

Weights = dict[str, mx.array]
_DTYPES = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "I8": mx.int8,
    "U16": mx.uint16,
    "I16": mx.int16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "U64": mx.uint64,
    "I64": mx.int64,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "F32": mx.float32,
}
_is_child = False


def _after_fork() -> None:
    global _is_child
    _is_child = True


os.register_at_fork(after_in_child=_after_fork)


def load_model(
    checkpoint: Checkpoint, pooling: Sequence[str], device: Device, dtype: str | None = None
) -> EmbeddingModel:
    """Load a checkpoint's weights; call it on the thread that will compute."""
    backbone = make_backbone(checkpoint.config)
    weights = _read_weights(checkpoint.weight_files)
    stored = read_float_dtype(checkpoint.weight_files)
    check_quantization(checkpoint.quantization, packed(weights), checkpoint.config_file)
    in_main_file = tuple(layer.name for layer in checkpoint.dense if layer.weight_file is None)
    dense_weights = (
        {key: weights.pop(key) for key in list(weights) if key.startswith(in_main_file)} if in_main_file else {}
    )
    try:
        weights = backbone.sanitize(weights)
    except ValueError as error:  # what is joined has other shapes
        raise UnsupportedModelError(
            f"{checkpoint.weight_files[0]}: layers that are computed together differ in shape or bits ({error})"
        ) from None
    weights = {key: weight for key, weight in weights.items() if not _ignored(key, backbone)}
    compute = device.dtype(stored, dtype)
    if compute == "float16" and backbone.overflows_in_float16:
        raise UnsupportedModelError(
            f'{checkpoint.name}: {checkpoint.model_type} overflows in float16; set dtype="bfloat16" or "float32"'
        )
    check_computed(weights, dict(backbone.named_modules()), device.kind, compute, checkpoint.config_file)
    if not device.keeps_quantization:
        weights = dequantize(backbone, weights, checkpoint.config_file)
    quantize_modules(backbone, weights, checkpoint.config_file)
    _load(backbone, _cast(weights, getattr(mx, compute)), checkpoint.weight_files[0])
    dense = [_load_dense(layer, dense_weights, checkpoint) for layer in checkpoint.dense]
    activations = Activations.of(backbone, checkpoint.config, device.kind, getattr(mx, compute))
    model = EmbeddingModel(backbone, pooling, dense, activations.bytes)
    model.eval()
    _check_fits(model, checkpoint.name, compute, device)
    mx.eval(model.parameters())
    return model


def _check_fits(model: EmbeddingModel, name: str, dtype: str, device: Device) -> None:
    """Refuse weights that the device's memory does not hold; none of them is read yet."""
    size, (possible, limit), free = model.parameter_bytes(), device.memory.possible(), device.memory.room(fresh=True)
    if size <= free:
        return
    parameters = size / np.dtype("float32" if dtype == "float32" else "float16").itemsize
    smaller = next((bits for bits in (8, 4) if parameters * (bits + 0.5) / 8 <= min(free, possible)), None)
    advice = "close other programs" if size <= possible else "take a smaller model"
    quantized = any(isinstance(layer, nn.QuantizedLinear) for layer in model.modules())
    if device.keeps_quantization and not quantized and smaller is not None:
        about = parameters * (smaller + 0.5) / 8e9
        advice += f", or a conversion to MLX in {smaller} bit, which takes about {about:.1f} GB"
    raise BackendError(
        f"{name}: its weights take {size / 1e9:.2f} GB in {dtype}, and {max(0, free) / 1e9:.2f} GB are free of "
        f"{limit}; {advice}. memory_limit_mb (AKIDB_MLX_MEMORY_LIMIT_MB) overrules the limit"
    )


def _read_weights(files: Sequence[Path]) -> Weights:
    """All tensors."""
    weights: Weights = {}
    for file in files:
        read_header(file)  # says plainly what is wrong with a torn file
        try:
            loaded = _read_in_child(file) if _is_child else mx.load(str(file), format="safetensors")
        except Exception as error:  # MLX raises RuntimeError and ValueError
            raise CheckpointError(f"{file} cannot be loaded ({error})") from None
        assert isinstance(loaded, dict)
        weights.update(loaded)
    return weights


def _read_in_child(file: Path) -> Weights:
    """As `mx.load`, without MLX's threads for reading, which a forked child lacks: it would wait for ever."""
    data = np.memmap(file, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    weights: Weights = {}
    for name, tensor in read_header(file).items():
        first, last = tensor["data_offsets"]
        values = mx.array(data[start + first : start + last]).view(_DTYPES[tensor["dtype"]])
        weights[name] = values.reshape(tensor["shape"])
    return weights


def _ignored(key: str, backbone: Backbone) -> bool:
    return any(re.match(pattern, key) for pattern in backbone.ignored_weights)


def _cast(weights: Weights, dtype: mx.Dtype) -> Weights:
    """Floats in the dtype to compute in, the scales of quantised weights among them; packed numbers are integers."""
    return {
        key: weight.astype(dtype) if mx.issubdtype(weight.dtype, mx.floating) else weight
        for key, weight in weights.items()
    }


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
        weights = _read_weights([spec.weight_file])
    else:
        prefix = f"{spec.name}."
        weights = {
            f"linear.{key.removeprefix(prefix)}": weight
            for key, weight in in_main_file.items()
            if key.startswith(prefix)
        }
    file = spec.weight_file or checkpoint.weight_files[0]
    weights = dequantize(layer, weights, checkpoint.config_file)
    _load(layer, {key: weight.astype(mx.float32) for key, weight in weights.items()}, file)
    return layer
