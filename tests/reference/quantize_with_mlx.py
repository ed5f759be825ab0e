"""Pack a checkpoint's weights as mlx_lm does, and leave the same weights unpacked to float32.

    python quantize_with_mlx.py FOLDER PACKED_FOLDER BITS GROUP_SIZE

FOLDER gets the unpacked weights, PACKED_FOLDER the packed ones and their config.json. Needs MLX, not torch.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx


def quantize(folder: Path, packed_folder: Path, bits: int, group_size: int) -> None:
    """Every matrix whose rows are a whole number of groups, embeddings and classifiers too, as mlx.nn.quantize does."""
    weights = mx.load(str(folder / "model.safetensors"))
    packed, unpacked = {}, {}
    for name, weight in weights.items():
        weight = weight.astype(mx.float32)
        if weight.ndim != 2 or weight.shape[-1] % group_size:
            packed[name] = unpacked[name] = weight
            continue
        rows, scales, biases = mx.quantize(weight, group_size=group_size, bits=bits)
        base = name.removesuffix(".weight")
        packed |= {name: rows, f"{base}.scales": scales, f"{base}.biases": biases}
        unpacked[name] = mx.dequantize(rows, scales, biases, group_size=group_size, bits=bits)
    packed_folder.mkdir()
    mx.save_safetensors(str(packed_folder / "model.safetensors"), packed, metadata={"format": "mlx"})
    mx.save_safetensors(str(folder / "model.safetensors"), unpacked, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = config["quantization_config"] = {"group_size": group_size, "bits": bits, "mode": "affine"}
    (packed_folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
