"""What the adapters' classes share: arguments that are settled once, a model that loads on first use, copies."""

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SkipValidation

from akidb_mlx.adapters.lazy import LazyEmbedder
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.options import EmbedderOptions
from akidb_mlx.config.sources import refuse_unknown
from akidb_mlx.embedder import EmbedderProtocol
from akidb_mlx.errors import ConfigError

__all__ = ["AdapterModel", "own_fields", "settle"]


class AdapterModel(EmbedderOptions):
    """A framework's embedding class: the options, and an embedder behind them; an adapter adds the framework's face."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    embedder: SkipValidation[EmbedderProtocol | None] = Field(
        default=None, exclude=True, repr=False, description="A ready embedder in place of a model and its settings."
    )
    _lazy: LazyEmbedder = PrivateAttr()

    @classmethod
    def from_config(cls, config: EmbedderConfig, **own: Any) -> Self:
        """An adapter with exactly this configuration; environment and files are not read again."""
        adapter = cls.__new__(cls)
        adapter._fill(LazyEmbedder(config), own)
        return adapter

    def load(self) -> EmbedderProtocol:
        """The embedder behind, loaded now if it is not yet: to warm up, or for its NumPy face."""
        return self._lazy.load()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; with `update` one that is checked and settled anew."""
        if not update:
            return self.__copy__()
        own = self._own()
        fields = {_field(name): value for name, value in update.items() if name not in own}
        config = self._lazy.picklable_config().with_changes(**fields)
        return self.from_config(config, **{name: update.get(name, value) for name, value in own.items()})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration; the model is found and loaded again from it."""
        return _restore, (type(self), self._lazy.picklable_config(), self._own())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._lazy})"

    __str__ = __repr__

    def _fill(self, lazy: LazyEmbedder, given: Mapping[str, Any]) -> None:
        """Set the fields as they were resolved, and `_lazy`."""
        raise NotImplementedError

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in own_fields(type(self))}


def own_fields(adapter: type[BaseModel]) -> frozenset[str]:
    """The fields of an adapter that are the framework's business: neither the configuration nor the embedder."""
    return frozenset(adapter.model_fields) - frozenset(EmbedderConfig.model_fields) - {"model_name", "embedder"}


def settle(given: Mapping[str, Any], own: Collection[str]) -> LazyEmbedder:
    """A lazy embedder from an adapter's arguments: `embedder`, or `model` (`model_name`) and EmbedderConfig's fields.

    `own` are the names of its other arguments (`own_fields`).

    Raises:
        ConfigError: an unknown name, a bad value, or an embedder together with settings.
        TypeError: an embedder that is none.
    """
    fields = {name: value for name, value in given.items() if name not in own}
    embedder = fields.pop("embedder", None)
    known = [*EmbedderConfig.model_fields, *own, "embedder", "model_name"]
    refuse_unknown("argument", fields, known)
    if "model" in fields and "model_name" in fields:
        raise ConfigError("model and model_name mean the same; keep one")
    if embedder is None:
        return LazyEmbedder(EmbedderConfig(**{_field(name): value for name, value in fields.items()}))
    if fields:
        raise ConfigError(f"embedder= brings its own settings; leave out {', '.join(sorted(fields))}, or embedder=")
    for method in ("encode_query", "encode_document", "aencode_query", "aencode_document"):
        if isinstance(embedder, type) or not callable(getattr(embedder, method, None)):
            raise TypeError(f"embedder is no embedder but {embedder!r:.80} (no {method}; see EmbedderProtocol)")
    return LazyEmbedder(embedder)


def _restore(cls: type[AdapterModel], config: EmbedderConfig, own: dict[str, Any]) -> AdapterModel:
    return cls.from_config(config, **own)


def _field(name: str) -> str:
    return "model" if name == "model_name" else name
