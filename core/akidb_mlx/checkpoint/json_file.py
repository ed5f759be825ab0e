"""JSON objects among a checkpoint's files, and their fields with the types that they must have."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from akidb_mlx.errors import CheckpointError

__all__ = ["read_field", "read_json"]

_REQUIRED: Any = object()
_POINTER = "version https://git-lfs"
T = TypeVar("T")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; CheckpointError names the file where it is torn or something else."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(_POINTER):
            raise CheckpointError(f"{path} is a pointer of Git LFS, not the file; fetch it with: git lfs pull")
        value = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; download the checkpoint again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a JSON object; download it again")
    return value


def read_field(file: Path, config: Mapping[str, Any], key: str, kind: type[T], default: T = _REQUIRED) -> T:
    """A field of a file; CheckpointError where it is of another type, or missing without a default."""
    value = config.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "nothing" if value is _REQUIRED else repr(value)
        raise CheckpointError(f"{file}: {key} must be of type {kind.__name__}; it holds {found}")
    return value
