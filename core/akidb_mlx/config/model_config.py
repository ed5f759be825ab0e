"""How to run a model, as the user said it: arguments, then variables, then one YAML file, then defaults.

`None` always means that the checkpoint or the device decides.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    PrivateAttr,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from akidb_mlx.config.options import ModelName, ModelOptions
from akidb_mlx.config.sources import Said, Source, find_file, refuse_unknown, shown
from akidb_mlx.errors import ConfigError
from akidb_mlx.restoring import restore

# What pydantic puts before what should be.
_OPENING = re.compile(r"^(?:Value error, |[A-Z]\w+ (?=should ))")

__all__ = ["ModelConfig", "explained", "fields_that_change"]


class ModelConfig(ModelOptions, BaseSettings):
    """What the configurations of all kinds of models do; a kind adds its fields, `model` among them, and its source."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    source: ClassVar[Source]
    """The variables and the section of a YAML file that are this kind's."""
    model: ModelName
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, /, **given: Any) -> None:
        """Take what is given, then the environment, then the first file found."""
        arguments, path = self._arguments(given), find_file()
        from_file = self.source.read_file(path, self._fields()) if path else {}
        self._fill(from_file | self.source.read_environment(self._fields()) | arguments)

    @classmethod
    def exact(cls, **fields: Any) -> Self:
        """These fields and plain defaults, without environment and files; for what was resolved before.

        Examples:
            >>> EmbedderConfig.exact(model="BAAI/bge-m3", truncate_dim=256).truncate_dim
            256
        """
        return cls._of(cls._arguments(fields))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], **given: Any) -> Self:
        """Like the constructor, with this file in place of the one that would be found.

        Examples:
            >>> _ = Path("narrow.yaml").write_text("truncate_dim: 128")
            >>> EmbedderConfig.from_yaml("narrow.yaml").truncate_dim
            128
        """
        from_file = cls.source.read_file(Path(path), cls._fields())
        return cls._of(from_file | cls.source.read_environment(cls._fields()) | cls._arguments(given))

    @classmethod
    def from_section(cls, section: Mapping[str, Any], where: str, **given: Any) -> Self:
        """One model's section of a larger file; what it leaves out comes from the environment, then defaults.

        Examples:
            >>> EmbedderConfig.from_section({"model": "BAAI/bge-m3"}, "models.large").source_of("model")
            'models.large.model'
        """
        refuse_unknown(f"key in {where}:", section, cls._fields())
        said = {name: (value, f"{where}.{name}") for name, value in section.items()}
        return cls._of(cls.source.read_environment(cls._fields()) | said | cls._arguments(given))

    def with_changes(self, **fields: Any) -> Self:
        """A checked copy with these fields changed; the others keep value and origin.

        Examples:
            >>> EmbedderConfig(model="BAAI/bge-m3").with_changes(truncate_dim=256).model
            'BAAI/bge-m3'
        """
        kept: Said = {name: (getattr(self, name), origin) for name, origin in self._origins.items()}
        return self._of(kept | self._arguments(fields))

    def source_of(self, field: str) -> str:
        """Where a field's value was said: "argument", a variable, "FILE: KEY", or "default".

        Examples:
            >>> config = EmbedderConfig(model="BAAI/bge-m3")
            >>> config.source_of("model"), config.source_of("pooling")
            ('argument', 'default')
        """
        refuse_unknown("field", [field], self._fields())
        return self._origins.get(field, "default")

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_change(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_change(name)
        super().__delattr__(name)

    def _refuse_change(self, name: str) -> None:
        if not name.startswith("_"):
            refuse_unknown("field", [name], self._fields())
            raise ConfigError(
                f"{name} is settled at construction; with_changes({name}=…) makes a copy that has another"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what was said and where, as JSON: bytes that neither the order of sets nor shared strings change."""
        plain = type(self).model_fields
        names = {name for name, value in self if name in self._origins or value != plain[name].default}
        values = self.model_dump(mode="json", include=names)
        said = {name: (value, self.source_of(name)) for name, value in values.items()}
        return restore, (type(self), json.dumps(said, sort_keys=True))

    @classmethod
    def _restored(cls, said: str) -> Self:
        return cls._of({name: (value, origin) for name, (value, origin) in json.loads(said).items()})

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
            raise ConfigError(explained(error, said)) from None
        self._origins = {name: origin for name, (_, origin) in said.items()}

    @classmethod
    def _fields(cls) -> tuple[str, ...]:
        return tuple(cls.model_fields)

    @classmethod
    def _arguments(cls, given: Mapping[str, Any]) -> Said:
        refuse_unknown("argument", given, cls._fields())
        return {name: (value, "argument") for name, value in given.items()}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.items()))


def fields_that_change(config: type[ModelConfig], what: str) -> frozenset[str]:
    """The fields that are marked to change "vectors", or only the "run"."""
    extras = {name: field.json_schema_extra for name, field in config.model_fields.items()}
    return frozenset(name for name, extra in extras.items() if extra == {"changes": what})


def explained(error: ValidationError, said: Said) -> str:
    """What pydantic found, in one line of our words; what `said` does not hold was an argument."""
    return "; ".join(_explain(problem, said) for problem in error.errors(include_url=False))


def _explain(problem: ErrorDetails, said: Said) -> str:
    """One pydantic problem in a line: field, value, origin, what is allowed."""
    name = str(problem["loc"][0])
    value, origin = said.get(name, (problem["input"], "argument"))
    allowed = _OPENING.sub("", problem["msg"])
    quote = " (put it in quotes)" if problem["type"] == "string_type" and ": " in origin else ""
    return f"{name} = {shown(value)} ({origin}): {allowed}{quote}"
