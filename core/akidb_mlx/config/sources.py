"""Where settings are said: `AKIDB_MLX_*` variables and one YAML file → field, value and origin.

`fields` are the names that a configuration has; any other name is an error that says which one is near.
"""

import contextlib
import difflib
import functools
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

from akidb_mlx.errors import ConfigError

__all__ = [
    "PREFIX",
    "Said",
    "expand_home",
    "expanded",
    "find_file",
    "read_environment",
    "read_file",
    "read_mapping",
    "refuse_unknown",
    "shown",
    "suggestion",
]

_log = logging.getLogger(__name__)

PREFIX: Final = "AKIDB_MLX_"
_RESERVED_VARIABLES: Final = frozenset({"AKIDB_MLX_BLAS"})  # read by device/blas.py before MLX loads; no field
# Of other kinds of model, which have a configuration of their own.
_OTHER_KINDS: Final = (f"{PREFIX}RERANKER_",)
_FILE_NAME: Final = "embedding_config.yaml"

# AkiDB's names in its `embedding:` section → ours; `auto_download` is the opposite, `batch_size` has none
_AKIDB_KEYS: Final = {
    "model_name": "model",
    "max_tokens": "max_seq_length",
    "auto_download": "local_files_only",
    "batch_size": None,
}

Said = dict[str, tuple[Any, str]]  # field → (value, where it was said)


def read_environment(fields: Collection[str]) -> Said:
    """Fields from `AKIDB_MLX_*`; a name that is none of ours is an error, for nobody would see it ignored."""
    variables = {PREFIX + name.upper(): name for name in fields}
    ours = [name for name in os.environ if name.upper().startswith(PREFIX) and name not in _RESERVED_VARIABLES]
    ours = [name for name in ours if not name.upper().startswith(_OTHER_KINDS)]
    refuse_unknown("environment variable", ours, variables)
    return {variables[name]: (os.environ[name], name) for name in ours}


def expanded(path: str | os.PathLike[str], what: str) -> Path:
    """A path with its `~` spelled out; ConfigError, naming `what` says it, where that home folder is unknown."""
    try:
        return expand_home(Path(path))
    except ValueError as error:
        raise ConfigError(f"{what} = {os.fspath(path)!r}: {error}") from None


def expand_home(path: Path) -> Path:
    """A path with its `~` spelled out; ValueError where that home folder is unknown."""
    try:
        return path.expanduser()
    except RuntimeError:
        mine = path.parts[0] == "~"
        problem = "~ is this user's home folder, which is unknown; set HOME" if mine else f"no user {path.parts[0][1:]}"
        raise ValueError(f"{problem}, or say the whole path") from None


def find_file() -> Path | None:
    """The first file of those that are looked for; ConfigError where `$AKIDB_CONFIG` names none."""
    named = os.environ.get("AKIDB_CONFIG")
    if named is not None:
        path = expanded(named, "AKIDB_CONFIG")
        if not path.is_file():
            raise ConfigError(f"AKIDB_CONFIG names {named!r}, which is no file; correct it or unset it")
        return path
    for folder in (".", "~/.config/akidb"):
        # RuntimeError: no home folder; OSError: one that this user may not enter
        with contextlib.suppress(OSError, RuntimeError):
            path = Path(folder).expanduser() / _FILE_NAME
            if path.exists():
                return path
    return None


def read_file(path: Path, fields: Collection[str]) -> Said:
    """Fields from one YAML file, ours or AkiDB's."""
    path = expanded(path, "configuration file").absolute()
    whole = read_mapping(path)
    if "embedding" not in whole:
        refuse_unknown(f"key in {path}:", whole, fields)
        return {name: (value, f"{path}: {name}") for name, value in whole.items()}
    section = whole["embedding"]
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: `embedding` should be a mapping of settings, not {shown(section)}")
    refuse_unknown(f"key in {path}, section embedding:", section, {*fields, *_AKIDB_KEYS})
    said: Said = {}
    for key, value in section.items():
        origin, field = f"{path}: embedding.{key}", _AKIDB_KEYS.get(key, key)
        if field is None:
            _report_unused(origin)
            continue
        if field in said:
            raise ConfigError(f"{said[field][1]} and embedding.{key} mean the same; keep one")
        if key == "auto_download":
            if not isinstance(value, bool):
                raise ConfigError(f"auto_download = {shown(value)} ({origin}): should be true or false")
            value = not value
        said[field] = (value, origin)
    return said


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file's settings; ConfigError where it cannot be read or holds anything else."""
    import yaml  # here, because most processes have no file

    class Loader(yaml.SafeLoader):
        """Safe, and a key written twice is an error instead of the last one's win."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise ConfigError(f"{path}: `{key}` is written twice; keep one")
            return {str(key): value for key, value in super().construct_mapping(node, deep).items()}

    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds {shown(content)}"
        raise ConfigError(f"{path} {found}; it should be a mapping of settings, such as `model: …`")
    return content


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def refuse_unknown(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise ConfigError for the first name that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            hint = suggestion(name, known) or ";"
            raise ConfigError(f"unknown {what} {name}{hint} allowed: {', '.join(sorted(known))}")


def shown(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


@functools.cache
def _report_unused(origin: str) -> None:
    _log.warning("%s is unused: batches are made by tokens (max_batch_tokens)", origin)
