"""The floats that packed weights stand for."""

import json
import shutil

import mlx.core as mx

from support.weights import save_weights


def dequantise(folder, target):
    """The same checkpoint with the floats that its packed weights stand for."""
    shutil.copytree(folder, target)
    weights = mx.load(str(target / "model.safetensors"))
    config = json.loads((target / "config.json").read_text())
    said = config.pop("quantization")
    config.pop("quantization_config", None)
    for path in [key[:-7] for key in weights if key.endswith(".scales")]:
        packing = said.get(path, {key: said[key] for key in ("group_size", "bits", "mode")})
        scales, biases = weights.pop(f"{path}.scales"), weights.pop(f"{path}.biases", None)
        if biases is not None:  # affine, whose products in 16 bit would round
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        weights[f"{path}.weight"] = mx.dequantize(
            weights[f"{path}.weight"], scales, biases, **packing, dtype=mx.float32
        )
    save_weights(target / "model.safetensors", weights)
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    return target
