"""What lies where a checkpoint was expected, in words: weights of other programs, parts, pointers. No MLX here."""

from pathlib import Path

__all__ = ["describe_file", "describe_folder", "is_pointer"]

_TAKE = "take the original checkpoint or an MLX conversion (safetensors)"
_POINTER = b"version https://git-lfs"
# Glob → what such files are and what to do; the first that fits says it.
_FORMATS = {
    "adapter_config.json": "the settings of adapters for another model; merge them into it first (mlx_lm.fuse, or "
    "peft's merge_and_unload)",
    "*.gguf": f"weights in GGUF (llama.cpp, Ollama, LM Studio), which are not read here; {_TAKE}",
    "*.onnx": f"weights in ONNX, which are not read here; {_TAKE}",
    "onnx/*.onnx": f"weights in ONNX, which are not read here; {_TAKE}",
    "openvino/*.xml": f"weights in OpenVINO's form, which are not read here; {_TAKE}",
    "*.xml": f"weights in OpenVINO's form, which are not read here; {_TAKE}",
    "*.h5": f"weights of TensorFlow, which are not read here; {_TAKE}",
    "*.msgpack": f"weights of Flax, which are not read here; {_TAKE}",
    "weights*.npz": f"weights of an old MLX conversion (npz), which are not read here; {_TAKE}",
    "weights*.safetensors": "weights of an old MLX conversion under a name that is not read here; convert it anew "
    "(mlx_lm.convert)",
    "model-*-of-*.safetensors": "a part of the weights, and model.safetensors.index.json, which lists the parts, is "
    "not there; download it again",
}


def describe_folder(folder: Path) -> str | None:
    """What a folder holds instead of weights that are read here, with what to do; None where nothing is known."""
    for pattern, what in _FORMATS.items():
        for file in sorted(folder.glob(pattern))[:1]:
            return f"{file.relative_to(folder).as_posix()} holds {what}"
    return None


def describe_file(file: Path) -> str | None:
    """The same of a file that was named in place of a folder."""
    with file.open("rb") as opened:
        if opened.read(4) == b"GGUF":
            return f"it holds {_FORMATS['*.gguf']}"
    return None


def is_pointer(file: Path) -> bool:
    """Whether git left a pointer there and not the file (Git LFS)."""
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER
