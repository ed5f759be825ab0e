"""Files that are there and cannot be read: a link to nowhere, an empty file. None of them counts as absent."""

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from akidb_mlx.errors import CheckpointError

__all__ = ["is_there", "refuse_broken_files"]

# What is read by name, in the checkpoint's folder or in a module's, but for the weights, of which one form is enough.
_READ: Final = (
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_*_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
# Text for people too: an empty one says nothing.
_README: Final = "README.md"


def refuse_broken_files(path: Path, folders: Iterable[str] = ("",)) -> None:
    """Raise CheckpointError where an entry of one of the `folders` in `path` cannot be read as what it should be."""
    for folder in dict.fromkeys(path / folder for folder in folders):
        if not folder.is_dir():
            if os.path.lexists(folder) and folder.is_symlink():
                raise CheckpointError(f"{folder} is a link that leads nowhere; download the checkpoint again")
            continue
        for file in sorted(folder.iterdir()):
            if file.name == _README or any(fnmatchcase(file.name, name) for name in _READ):
                _refuse_broken(file)


def is_there(file: Path) -> bool:
    """Whether there is such a file; CheckpointError where its entry cannot be read."""
    if not os.path.lexists(file):
        return False
    _refuse_broken(file)
    return True


def _refuse_broken(file: Path) -> None:
    if file.is_symlink() and not file.exists():
        problem = f"is a link that leads nowhere ({file.readlink()})"
    elif not file.is_file():
        problem = "is no file"
    elif not os.access(file, os.R_OK):
        problem = "cannot be read by this user"
    elif file.stat().st_size == 0 and file.name != _README:
        problem = "is empty"
    else:
        return
    raise CheckpointError(f"{file} {problem}; download it again, or delete it if the model has none")
