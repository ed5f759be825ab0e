"""What a file of weights holds, without reading them: safetensors, or torch's form. No MLX here."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.torch_zip import is_torch_file, read_torch_header
from akidb_mlx.errors import CheckpointError

__all__ = ["read_float_dtype", "read_header"]

# The last three become float32 on reading.
_FLOATS = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    **dict.fromkeys(("F64", "F8_E4M3", "F8_E5M2"), "float32"),
}


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name → dtype, shape and offsets of each tensor of a file; CheckpointError if it was cut short.

    A file of torch's has offsets from each tensor's own first byte; of it also UnsupportedModelError, where it holds
    something else than tensors.
    """
    if is_torch_file(file):
        return read_torch_header(file)
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(begin := stream.read(8), "little")
            if begin == b"version ":
                raise ValueError("it is a pointer of Git LFS; fetch the file with: git lfs pull")
            size = file.stat().st_size
            if not 0 < length <= size - 8:
                raise ValueError("its header is cut short")
            header: dict[str, dict[str, Any]] = dict(json.loads(stream.read(length)).items())
        header.pop("__metadata__", None)
        end = 0
        for tensor in header.values():
            first, last = tensor["data_offsets"]
            if not (isinstance(first, int) and isinstance(last, int) and isinstance(tensor["dtype"], str)):
                raise ValueError(f"its header says {tensor!r}")
            end = max(end, last)
        if 8 + length + end != size:
            raise ValueError(f"it should have {8 + length + end} bytes and has {size}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is no whole safetensors file ({error}); download it again") from None
    return header


def read_float_dtype(files: Iterable[Path]) -> str:
    """The float dtype that most bytes of a model's weights have."""
    sizes: dict[str, int] = {}
    for file in files:
        for tensor in read_header(file).values():
            first, last = tensor["data_offsets"]
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + last - first
    floats = {name: size for name, size in sizes.items() if name in _FLOATS}
    if not floats:
        raise CheckpointError(f"{file} holds no float weights, but {sorted(sizes)}")
    return _FLOATS[max(floats, key=lambda name: floats[name])]
