"""Facts → a live model: weights under our names, dtype, quantisation, head; nothing missing or left over."""

import re
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from akidb_mlx.checkpoint.heads import HeadFacts
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.checkpoint.torch_zip import is_torch_file
from akidb_mlx.device.choice import Device
from akidb_mlx.errors import BackendError, UnsupportedModelError
from akidb_mlx.model.activation_memory import Activations
from akidb_mlx.model.adapters import adapted_backbones, claim_stacks
from akidb_mlx.model.architectures import Backbone, make_backbone
from akidb_mlx.model.heads.base import Head
from akidb_mlx.model.heads.loading import claim_weights, load_head
from akidb_mlx.model.layers.experts import Router
from akidb_mlx.model.layers.products import settle_products
from akidb_mlx.model.network import Network
from akidb_mlx.model.quantization import (
    check_computed,
    check_quantization,
    dequantize,
    packed,
    quantize_modules,
    unpack_products,
)
from akidb_mlx.model.weights import Weights, cast_weights, fill, read_weights

__all__ = ["backbone_weights", "load_model", "load_own_head"]


def load_model(
    checkpoint: ModelFacts,
    head_facts: HeadFacts,
    device: Device,
    dtype: str | None = None,
    make_room: Callable[[int], None] = lambda _: None,
) -> Network:
    """Load a checkpoint's weights; call it on the thread that will compute.

    `make_room` is asked for the bytes that are wanted, before they are read, where the device has less.
    """
    backbone = make_backbone(checkpoint.config)
    stored = checkpoint.float_dtype
    # Torch's files are read into memory here, safetensors only once all is known to fit.
    held = sum(file.stat().st_size for file in checkpoint.weight_files if is_torch_file(file))
    if held:
        _check_fits(held, 0, checkpoint.name, stored, device, make_room)
    weights = read_weights(checkpoint.weight_files)
    check_quantization(checkpoint.quantization, packed(weights), checkpoint.config_file)
    # The head claims its weights first; what neither it nor the backbone knows is left over, which `fill` refuses.
    claimed = claim_weights(head_facts, weights, checkpoint)
    stacks = claim_stacks(checkpoint, weights)
    weights = backbone_weights(backbone, weights, checkpoint)
    compute = _compute_dtype(backbone, checkpoint, device.dtype(stored, dtype))
    check_computed(weights, dict(backbone.named_modules()), device.kind, compute, checkpoint.config_file)
    weights = dequantize(backbone, weights, checkpoint.config_file, routers_only=device.keeps_quantization)
    quantize_modules(backbone, weights, checkpoint.config_file, getattr(mx, compute))
    if device.kind == "cuda":
        unpack_products(backbone)
    weights = cast_weights(weights, getattr(mx, compute), in_float32=_of_routers(backbone))
    fill(backbone, weights, checkpoint.weight_files[0])
    head = load_head(head_facts, backbone.width, claimed, checkpoint)
    head.settle(getattr(mx, compute))
    adapted = adapted_backbones(checkpoint, backbone, stacks, getattr(mx, compute))
    largest = next(iter(adapted.values()), backbone)
    activations = Activations.of(largest, checkpoint.config, device.kind, getattr(mx, compute))
    model = Network(
        backbone,
        head,
        lambda rows, length: activations.bytes(rows, length) + head.activation_bytes(rows, length),
        adapted,
    )
    model.eval()
    can_shrink = not any(isinstance(layer, nn.QuantizedLinear) for layer in model.modules())
    _check_fits(model.parameter_bytes(), held, checkpoint.name, compute, device, make_room, can_shrink=can_shrink)
    mx.eval(model.parameters())
    if device.kind == "cpu" and compute == "float32" and not adapted:
        backbone.settle_on_cpu()
    for one in (backbone, *adapted.values()):
        one.settle()
    settle_products(model)
    return model


def load_own_head(network: Network, facts: HeadFacts, checkpoint: ModelFacts) -> Head:
    """A further head over a loaded backbone, from files of its own; call it on the thread that will compute."""
    head = load_head(facts, network.backbone.width, {}, checkpoint)
    mx.eval(head.parameters())
    return head


def backbone_weights(backbone: Backbone, weights: Weights, checkpoint: ModelFacts) -> Weights:
    """The backbone's own under our names; heads that this model does not have are left where they are."""
    try:
        weights = backbone.sanitize(weights)
    except (IndexError, ValueError) as error:  # what is joined has other shapes, or none
        raise UnsupportedModelError(
            f"{checkpoint.weight_files[0]}: layers that are computed together differ in shape or bits ({error})"
        ) from None
    return {key: weight for key, weight in weights.items() if not _is_beside(key, backbone)}


def _of_routers(backbone: Backbone) -> frozenset[str]:
    """Names of the weights that choose experts."""
    routers = ((path, module) for path, module in backbone.named_modules() if isinstance(module, Router))
    return frozenset(f"{path}.{name}" for path, router in routers for name in router.parameters())


def _compute_dtype(backbone: Backbone, checkpoint: ModelFacts, dtype: str) -> str:
    if dtype == "float16" and backbone.overflows_in_float16:
        raise UnsupportedModelError(
            f'{checkpoint.name}: {checkpoint.model_type} overflows in float16; set dtype="bfloat16" or "float32"'
        )
    return dtype


def _check_fits(
    size: int,
    held: int,
    name: str,
    dtype: str,
    device: Device,
    make_room: Callable[[int], None],
    *,
    can_shrink: bool = True,
) -> None:
    """Refuse weights of `size` bytes that the device's memory does not hold, before they are read.

    `held`: bytes of them that are in memory already; `can_shrink`: they are not quantised yet.
    """
    free = device.memory.room(fresh=True) + held
    if size > free:
        make_room(size - held)
        free = device.memory.room(fresh=True) + held
    if size <= free:
        return
    possible, limit = device.memory.possible()
    parameters = size / np.dtype("float32" if dtype == "float32" else "float16").itemsize
    smaller = next((bits for bits in (8, 4) if parameters * (bits + 0.5) / 8 <= min(free, possible)), None)
    advice = "close other programs" if size <= possible else "take a smaller model"
    if device.keeps_quantization and can_shrink and smaller is not None:
        about = parameters * (smaller + 0.5) / 8e9
        advice += f", or a conversion to MLX in {smaller} bit, which takes about {about:.1f} GB"
    raise BackendError(
        f"{name}: its weights take {size / 1e9:.2f} GB in {dtype}, and {max(0, free) / 1e9:.2f} GB are free of "
        f"{limit}; {advice}. memory_limit_mb (AKIDB_MLX_MEMORY_LIMIT_MB) overrules the limit"
    )


def _is_beside(key: str, backbone: Backbone) -> bool:
    return any(re.match(pattern, key) for pattern in (*backbone.ignored_weights, *backbone.head_weights))
