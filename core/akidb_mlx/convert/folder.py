"""The files beside the weights: copied as they are, but for config.json and the README, which say what was done."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.needed_files import TORCH, matches

__all__ = ["copy_sidecars", "files_beside", "free_bytes", "write_config", "write_index", "write_readme"]

# The same weights in other forms, and what is no part of a model.
_OTHERS: Final = ("onnx", "openvino", "coreml", ".git", ".cache", "__pycache__")
_OTHER_FORMS: Final = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pyc")
_WEIGHTS: Final = (TORCH, "pytorch_model*.bin.index.json", "model*.safetensors", "model*.safetensors.index.json")
_FRONT: Final = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_BASE: Final = re.compile(r"^base_model(?:_relation)?:[ \t]*.*(?:\n[ \t]*-.*)*\n", re.MULTILINE)


def files_beside(path: Path, folder: Path) -> list[Path]:
    """Every file of the checkpoint `path` but the weights in `folder` and other runtimes' copies of them."""
    return [
        file
        for file in _walk(path)
        if not matches(file.name, _OTHER_FORMS) and not (file.parent == folder and matches(file.name, _WEIGHTS))
    ]


def copy_sidecars(files: Iterable[Path], path: Path, target: Path) -> None:
    """Copy them to the same places below `target`, links as what they lead to."""
    for file in files:
        place = target / file.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def write_config(source: Path, target: Path, settings: Mapping[str, Any]) -> None:
    """config.json with the packing in it, under both names that mlx-lm writes."""
    config = {**read_json(source), "quantization": settings, "quantization_config": settings}
    target.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_index(file: Path, about: Mapping[str, Any], weight_map: Mapping[str, str]) -> None:
    """Which shard has which weight."""
    file.write_text(json.dumps({"metadata": about, "weight_map": weight_map}, indent=2) + "\n", encoding="utf-8")


def write_readme(folder: Path, name: str, revision: str | None, told: str) -> None:
    """Put the origin into README.md's front matter, and at its end what was done.

    A name on the Hub, which has a `revision`, becomes `base_model`; else the front matter keeps what it says.
    """
    file = folder / "README.md"
    readme = file.read_text(encoding="utf-8-sig", errors="replace") if file.exists() else ""
    front, body = (found[1], readme[found.end() :]) if (found := _FRONT.match(readme)) else ("", readme)
    if revision is not None:
        front = f"{_BASE.sub('', front)}base_model: {name}\nbase_model_relation: quantized\n"
        origin = f"`{name}` (revision {revision})"
    else:
        origin = f"`{Path(name).name}`"
    head = f"---\n{front}---\n" if front else ""
    done = f"## Packed weights\n\nConverted to MLX by akidb-mlx {version('akidb-mlx')} from {origin}: {told}.\n"
    file.write_text(f"{head}{body.rstrip()}\n\n{done}".lstrip("\n"), encoding="utf-8")


def free_bytes(folder: Path) -> int:
    """What the disk of a folder still takes."""
    return shutil.disk_usage(folder).free


def _walk(path: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(path):  # which follows no links to folders
        folders[:] = sorted(name for name in folders if name not in _OTHERS)
        yield from (file for name in sorted(names) if (file := Path(place) / name).is_file())
