"""Where settings are said: `AKIDB_MLX_*` variables and one YAML file → field, value and origin.

`fields` are the names that a configuration has; any other name is an error that says which one is near.
"""

import contextlib
import difflib
import functools
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from akidb_mlx.config.neighbours import advice
from akidb_mlx.errors import ConfigError

__all__ = [
    "EMBEDDER",
    "MULTI_VECTOR",
    "RERANKER",
    "SPARSE",
    "Said",
    "Source",
    "expand_home",
    "expanded",
    "find_file",
    "read_mapping",
    "refuse_unknown",
    "shown",
    "suggestion",
]

_log = logging.getLogger(__name__)

_RESERVED_VARIABLES: Final = frozenset({"AKIDB_MLX_BLAS"})  # read by device/blas.py before MLX loads; no field
_FILE_NAME: Final = "embedding_config.yaml"

# AkiDB's names in its `embedding:` section → ours; `auto_download` is the opposite, `batch_size` has none
_AKIDB_KEYS: Final = {
    "model_name": "model",
    "max_tokens": "max_seq_length",
    "auto_download": "local_files_only",
    "batch_size": None,
}

Said = dict[str, tuple[Any, str]]  # field → (value, where it was said)


@dataclass(frozen=True)
class Source:
    """Where one kind of model's settings are said: variables of a prefix, and a YAML file or a section of it."""

    prefix: str
    section: str
    """The file's section that is this kind's alone."""
    stem: str = ""
    """What a variable begins with that can only be meant for this kind, the prefix or not."""
    spellings: Mapping[str, str | None] = field(default_factory=dict)
    """AkiDB's names there → ours."""
    plain: bool = False
    """Whether a file without that section is this kind's, but for the other kinds' sections."""

    def read_environment(self, fields: Collection[str]) -> Said:
        """Fields from variables; a name that is none of ours is an error, for nobody would see it ignored."""
        variables = {self.prefix + name.upper(): name for name in fields}
        mine = self.stem or self.prefix
        ours = [name for name in os.environ if name.upper().startswith(mine) and not self._of_others(name)]
        refuse_unknown("environment variable", ours, variables)
        return {variables[name]: (os.environ[name], name) for name in ours}

    def read_file(self, path: Path, fields: Collection[str]) -> Said:
        """Fields from one YAML file, ours or AkiDB's."""
        path = expanded(path, "configuration file").absolute()
        whole = read_mapping(path)
        if self.section in whole:
            return self._read_section(path, whole[self.section], fields)
        if not self.plain:
            self._refuse_misspelt(path, whole)
            return {}
        others = _others_than(self, "section")
        plain = {key: value for key, value in whole.items() if key not in others}
        refuse_unknown(f"key in {path}:", plain, {*fields, self.section, *others})
        return {name: (value, f"{path}: {name}") for name, value in plain.items()}

    def _refuse_misspelt(self, path: Path, sections: Iterable[str]) -> None:
        """A section that is nearly called so would leave the defaults in place without a word."""
        for name in sections:
            if difflib.get_close_matches(name.lower(), [self.section], cutoff=0.8):
                raise ConfigError(f"unknown section {name} in {path}; did you mean {self.section}?")

    def _of_others(self, variable: str) -> bool:
        others = tuple(stem for stem in _others_than(self, "stem") if stem.startswith(self.prefix))
        return variable in _RESERVED_VARIABLES or variable.upper().startswith(others)

    def _read_section(self, path: Path, section: Any, fields: Collection[str]) -> Said:
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: `{self.section}` should be a mapping of settings, not {shown(section)}")
        refuse_unknown(f"key in {path}, section {self.section}:", section, {*fields, *self.spellings})
        said: Said = {}
        for key, value in section.items():
            origin, name = f"{path}: {self.section}.{key}", self.spellings.get(key, key)
            if name is None:
                _report_unused(origin)
                continue
            if name in said:
                raise ConfigError(f"{said[name][1]} and {self.section}.{key} mean the same; keep one")
            said[name] = (_opposite(value, origin) if key == "auto_download" else value, origin)
        return said


EMBEDDER: Final = Source("AKIDB_MLX_", "embedding", spellings=_AKIDB_KEYS, plain=True)
RERANKER: Final = Source("AKIDB_MLX_RERANKER_", "reranker", stem="AKIDB_MLX_RERANK")
MULTI_VECTOR: Final = Source("AKIDB_MLX_MULTI_VECTOR_", "multi_vector", stem="AKIDB_MLX_MULTI")
SPARSE: Final = Source("AKIDB_MLX_SPARSE_", "sparse", stem="AKIDB_MLX_SPARSE")
_SOURCES: Final = (EMBEDDER, RERANKER, SPARSE, MULTI_VECTOR)


def _others_than(source: Source, what: str) -> list[str]:
    return [getattr(other, what) for other in _SOURCES if other is not source]


def _opposite(value: Any, origin: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"auto_download = {shown(value)} ({origin}): should be true or false")
    return not value


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
    """`; did you mean X?` for the nearest known name, whatever the case of its letters, or nothing."""
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1)
    return f"; did you mean {lowered[close[0]]}?" if close else ""


def refuse_unknown(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise ConfigError for the first name that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            if instead := advice(name, known):
                raise ConfigError(f"unknown {what} {name}: {instead} (docs/coming-from.md)")
            hint = suggestion(name, known) or ";"
            raise ConfigError(f"unknown {what} {name}{hint} allowed: {', '.join(sorted(known))}")


def shown(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


@functools.cache
def _report_unused(origin: str) -> None:
    _log.warning("%s is unused: batches are made by tokens (max_batch_tokens)", origin)
