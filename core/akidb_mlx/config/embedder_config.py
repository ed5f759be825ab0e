"""How to run a model, as the user said it: arguments, then `AKIDB_MLX_*`, then one YAML file, then defaults.

`None` always means that the checkpoint or the device decides.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self

from pydantic import (
    BaseModel,
    PrivateAttr,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from akidb_mlx.config.options import DEFAULT_MODEL, EmbedderOptions, ModelName, vectors_field
from akidb_mlx.config.sources import PREFIX, Said, find_file, read_environment, read_file, refuse_unknown, shown
from akidb_mlx.errors import ConfigError

__all__ = ["RUN_FIELDS", "VECTOR_FIELDS", "EmbedderConfig"]


class EmbedderConfig(EmbedderOptions, BaseSettings):
    """A model and how to run it; frozen, and equal to another of the same values wherever they came from.

    Values come from the arguments really given (None included), then `AKIDB_MLX_*` variables, then the first
    file found of `$AKIDB_CONFIG`, `./embedding_config.yaml`, `~/.config/akidb/embedding_config.yaml`, then
    defaults. Of a file with an `embedding:` section (AkiDB's own) only that is read, where AkiDB's names are
    taken too: `model_name`, `max_tokens`, `auto_download`, and `batch_size`, which is unused. Of any other
    file every key must be a field. Copies, unpickled configs and child processes read none of this again.

    Raises:
        ConfigError: an unknown name, a bad value or a bad file.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", protected_namespaces=(), env_prefix=PREFIX)

    model: ModelName = vectors_field(
        "A local folder, package:NAME (an installed package with a model), a Hub id, or an alias.",
        DEFAULT_MODEL,
    )
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, /, **given: Any) -> None:
        """Take what is given, then the environment, then the first file found."""
        arguments, path = _arguments(given), find_file()
        self._fill((read_file(path, _fields()) if path else {}) | read_environment(_fields()) | arguments)

    @classmethod
    def exact(cls, **fields: Any) -> Self:
        """These fields and plain defaults, without environment and files; for what was resolved before."""
        return cls._of(_arguments(fields))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], **given: Any) -> Self:
        """Like the constructor, with this file in place of the one that would be found."""
        return cls._of(read_file(Path(path), _fields()) | read_environment(_fields()) | _arguments(given))

    @classmethod
    def from_section(cls, section: Mapping[str, Any], where: str, **given: Any) -> Self:
        """One model's section of a larger file; what it leaves out comes from the environment, then defaults."""
        refuse_unknown(f"key in {where}:", section, _fields())
        said = {name: (value, f"{where}.{name}") for name, value in section.items()}
        return cls._of(read_environment(_fields()) | said | _arguments(given))

    def with_changes(self, **fields: Any) -> Self:
        """A checked copy with these fields changed; the others keep value and origin."""
        kept: Said = {name: (getattr(self, name), origin) for name, origin in self._origins.items()}
        return self._of(kept | _arguments(fields))

    def source_of(self, field: str) -> str:
        """Where a field's value was said: "argument", a variable, "FILE: KEY", or "default"."""
        refuse_unknown("field", [field], _fields())
        return self._origins.get(field, "default")

    @classmethod
    def _of(cls, said: Said) -> Self:
        config = cls.__new__(cls)
        config._fill(said)
        return config

    def _fill(self, said: Said) -> None:
        # BaseModel's: BaseSettings' own sources ignore unknown names and forget where a value came from
        try:
            BaseModel.__init__(self, **{name: value for name, (value, _) in said.items()})
        except ValidationError as error:
            problems = "; ".join(_explain(problem, said) for problem in error.errors(include_url=False))
            raise ConfigError(problems) from None
        self._origins = {name: origin for name, (_, origin) in said.items()}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.items()))


def _fields() -> Collection[str]:
    return EmbedderConfig.model_fields


def _fields_that_change(what: str) -> frozenset[str]:
    extras = {name: field.json_schema_extra for name, field in EmbedderConfig.model_fields.items()}
    return frozenset(name for name, extra in extras.items() if extra == {"changes": what})


VECTOR_FIELDS: Final = _fields_that_change("vectors")
RUN_FIELDS: Final = _fields_that_change("run")


def _explain(problem: ErrorDetails, said: Said) -> str:
    """One pydantic problem in a line: field, value, origin, what is allowed."""
    name = str(problem["loc"][0])
    value, origin = said[name]
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    quote = " (put it in quotes)" if problem["type"] == "string_type" and ": " in origin else ""
    return f"{name} = {shown(value)} ({origin}): {allowed}{quote}"


def _arguments(given: dict[str, Any]) -> Said:
    refuse_unknown("argument", given, _fields())
    return {name: (value, "argument") for name, value in given.items()}
