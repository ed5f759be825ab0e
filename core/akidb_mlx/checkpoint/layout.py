"""Where a checkpoint's files lie: config.json, the weights, the tokenizer. No MLX here."""

from dataclasses import dataclass
from pathlib import Path

from akidb_mlx.checkpoint.broken_files import is_there
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.other_formats import describe_folder, is_pointer
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Layout", "find_files"]


@dataclass(frozen=True)
class Layout:
    """The files of the first module, which a checkpoint may have in a folder of its own."""

    path: Path
    """The checkpoint's folder."""
    folder: Path
    """The first module's."""
    config_file: Path
    """It need not exist."""
    weight_files: tuple[Path, ...]
    tokenizer_file: Path

    def relative(self, file: Path) -> str:
        """A file as a source names it."""
        return file.relative_to(self.path).as_posix()


def find_files(path: Path, folder: Path) -> Layout:
    """The files of the checkpoint `path` whose first module is in `folder`; CheckpointError names what is missing."""
    if (folder / "adapter_config.json").exists() and (folder / "config.json").exists():
        raise UnsupportedModelError(
            f"{folder / 'adapter_config.json'}: the reference adds an adapter's weights to the model's, which is not "
            "supported here; merge them first (peft's merge_and_unload), or delete the file if it is another model's"
        )
    return Layout(path, folder, folder / "config.json", _weight_files(folder), _tokenizer_file(folder))


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Safetensors, or what torch.save wrote where there are none.

    As transformers: a whole file comes before an index, which a conversion may have left behind.
    """
    for weights in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        index = folder / f"{weights.name}.index.json"
        if is_there(weights) and is_pointer(weights):
            raise CheckpointError(
                f"{weights} is a pointer of Git LFS and not the weights; fetch them with: git lfs pull"
            )
        if weights.exists():
            return (weights,)
        if is_there(index):
            return _shards(index)
    other = sorted(file.name for pattern in ("*.bin", "*.pt") for file in folder.glob(pattern))
    hint = f"{other[0]} is not the name of a model's weights; download those" if other else "download it again"
    raise CheckpointError(f"{folder} lacks model.safetensors (or pytorch_model.bin); {describe_folder(folder) or hint}")


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from names to files; download it again")
    files = tuple(index.parent / name for name in sorted(set(weight_map.values())))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}; download the checkpoint again")
    return files


def _tokenizer_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.exists():
        command = f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        raise CheckpointError(
            f"{file} is missing; make it where transformers is installed: "
            f'python -c "from transformers import AutoTokenizer; {command}"'
        )
    return file
