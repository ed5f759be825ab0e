"""What the adapters' classes share: arguments that are settled once, a model that loads on first use, copies."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, SkipValidation, ValidationError
from pydantic.json_schema import SkipJsonSchema

from akidb_mlx.adapters.lazy import Lazy
from akidb_mlx.adapters.lazy_embedder import LazyEmbedder
from akidb_mlx.adapters.lazy_reranker import LazyReranker
from akidb_mlx.adapters.lazy_sparse import LazySparseEmbedder
from akidb_mlx.adapters.server import Elsewhere, Server
from akidb_mlx.config.model_config import ModelConfig, explained
from akidb_mlx.config.options import EmbedderOptions, RerankerOptions, SparseOptions
from akidb_mlx.config.sources import refuse_unknown
from akidb_mlx.config.sparse_config import refuse_truncate_dim
from akidb_mlx.embedder import EmbedderProtocol
from akidb_mlx.errors import ConfigError
from akidb_mlx.remote.address import Address
from akidb_mlx.reranker import RerankerProtocol
from akidb_mlx.restoring import restore
from akidb_mlx.sparse_embedder import SparseEmbedderProtocol

__all__ = ["AdapterModel", "EmbedderAdapter", "RerankerAdapter", "SparseAdapter"]


if TYPE_CHECKING:
    from akidb_mlx.config.argument import Argument

    KeyArgument = Argument[str | SecretStr | None, SecretStr | None]

# The fields that say where the model is.
_PLACE = ("base_url", "api_key", "timeout_s", "fingerprint")


class AdapterModel(BaseModel):
    """A framework's class over a model of some kind; the kind adds its options, an adapter the framework's methods."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    lazy_class: ClassVar[type[Lazy[Any, Any]]]
    """The kind of model: its configuration, its class, and what a ready one is called."""
    model_field: ClassVar[str] = "model"
    """The field that holds the model's name."""
    _lazy: Lazy[Any, Any] = PrivateAttr()
    base_url: str | None = Field(
        default=None,
        description="A server that has the model (`akidb-mlx serve`): http://HOST:PORT, or unix:///PATH. None: here.",
    )
    if TYPE_CHECKING:
        api_key: KeyArgument = Field(default_factory=KeyArgument)
    else:
        api_key: SecretStr | None = Field(
            default=None,
            exclude=True,
            repr=False,
            description="The server's key. None takes the variable AKIDB_API_KEY, if there is one.",
        )
    timeout_s: float = Field(
        default=600.0,
        gt=0,
        allow_inf_nan=False,
        exclude=True,
        description="Seconds that an answer of the server may take; a model may have to be loaded for it.",
    )
    fingerprint: str | None = Field(
        default=None,
        description="Fingerprint that the server's rows must have. None: what it gives at first, and then no other.",
    )

    if not TYPE_CHECKING:  # type checkers read the fields

        def __init__(self, /, **given: Any) -> None:
            """Settle the configuration; load nothing."""
            self._fill(self._settled(given), given)

    @classmethod
    def from_config(cls, config: ModelConfig, **own: Any) -> Self:
        """An adapter with exactly this configuration; environment and files are not read again.

        `own`: the adapter's other fields, those of a server among them.

        Examples:
            >>> AkiDBMLXEmbeddings.from_config(EmbedderConfig(model="BAAI/bge-m3", truncate_dim=256)).truncate_dim
            256
        """
        wanted = cls.lazy_class.config_class
        if not isinstance(config, wanted):
            raise TypeError(f"{cls.__name__} is made of {wanted.__name__}, not {type(config).__name__}")
        adapter = cls.__new__(cls)
        adapter._fill(cls.lazy_class(config, _server(own)), own)
        return adapter

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; with `update` one that is checked and settled anew.

        Examples:
            >>> embeddings.model_copy(update={"truncate_dim": 128}).truncate_dim
            128
        """
        if not update:
            return self.__copy__()
        argument = self.lazy_class.argument
        own = {name: update.get(name, value) for name, value in self._own().items()}
        fields = {_field(name): value for name, value in update.items() if name not in own}
        if fields.get(argument) is not None:
            return type(self)(**fields, **own)
        fields.pop(argument, None)
        if not fields:  # the same ready model, or configuration
            copied = type(self).__new__(type(self))
            copied._fill(self._lazy, {argument: getattr(self, argument), **own})
            return copied
        if self._lazy.config is None:
            raise ConfigError(
                f"{argument}= brings its own settings; to change {', '.join(fields)} give another {argument}"
            )
        place = {name: fields.pop(name, getattr(self, name)) for name in _PLACE}
        if place["base_url"] is None and "base_url" in update:  # from there to here
            place = {}
        return self.from_config(self._lazy.config.with_changes(**fields), **place, **own)

    @classmethod
    def settled_names(cls) -> frozenset[str]:
        """The fields that are the model's business: the configuration, and what stands in its place.

        Examples:
            >>> "truncate_dim" in AkiDBMLXEmbeddings.settled_names()
            True
        """
        return frozenset(cls.lazy_class.config_class.model_fields) | {"model_name", cls.lazy_class.argument, *_PLACE}

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_change(name)
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(explained(error, {})) from None

    def __delattr__(self, name: str) -> None:
        self._refuse_change(name)
        super().__delattr__(name)

    def _refuse_change(self, name: str) -> None:
        """ConfigError where a field is settled: those that decide results, and of a frozen class all."""
        frozen = type(self).model_config.get("frozen", False) and not name.startswith("_")
        if name in self.settled_names() or (frozen and name in self._own_fields()):
            copied = f"model_copy(update={{{name!r}: …}})"
            raise ConfigError(f"{name} is settled at construction; {copied} makes a changed copy")
        if frozen:
            raise ConfigError(f"{type(self).__name__} has no field {name}")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration, from which the model is found and loaded again; or a ready model that does so."""
        return restore, (type(self), self._lazy.picklable(), self._picklable_own())

    @classmethod
    def _restored(cls, source: Any, own: dict[str, Any]) -> Self:
        if isinstance(source, Elsewhere):
            adapter = cls.__new__(cls)
            adapter._fill(cls.lazy_class(source.config, source.server), own)
            return adapter
        if isinstance(source, ModelConfig):
            return cls.from_config(source, **own)
        return cls(**{cls.lazy_class.argument: source}, **own)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._lazy})"

    __str__ = __repr__

    def _fill(self, lazy: Lazy[Any, Any], given: Mapping[str, Any]) -> None:
        """Set the fields as they were resolved, and `_lazy`."""
        if lazy.config:
            fields = {self.model_field if name == "model" else name: value for name, value in lazy.config}
        else:
            fields = {self.model_field: self._name_of(lazy.load())}
        own = {name: given[name] for name in (*self._own_fields(), lazy.argument) if name in given}
        try:
            super().__init__(**fields, **_place(lazy.server), **own)
        except ValidationError as error:
            raise ConfigError(explained(error, {})) from None
        self._lazy = lazy

    @staticmethod
    def _name_of(face: Any) -> str:
        """What stands for the model's name where a ready one has no configuration."""
        return type(face).__name__

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in sorted(self._own_fields())}

    def _picklable_own(self) -> dict[str, Any]:
        """The framework's fields, but for plain defaults."""
        fields = type(self).model_fields
        return {name: value for name, value in self._own().items() if not _same(value, fields[name].default)}

    @classmethod
    def _own_fields(cls) -> frozenset[str]:
        """The fields that are the framework's business."""
        return frozenset(cls.model_fields) - cls.settled_names()

    @classmethod
    def _settled(cls, given: Mapping[str, Any]) -> Lazy[Any, Any]:
        """What an adapter's arguments ask for: a ready model, or `model` (`model_name`) and the configuration's fields.

        Raises:
            ConfigError: an unknown name, a bad value, or a ready model together with settings.
            TypeError: something else in place of a ready model.
        """
        kind, own = cls.lazy_class, cls._own_fields()
        fields = {name: value for name, value in given.items() if name not in own}
        face = fields.pop(kind.argument, None)
        known = [*kind.config_class.model_fields, *own, *_PLACE, kind.argument, "model_name"]
        refuse_unknown("argument", fields, known)
        if "model" in fields and "model_name" in fields:
            raise ConfigError("model and model_name mean the same; keep one")
        if face is None:
            server = _server({name: fields.pop(name) for name in _PLACE if name in fields})
            return kind(kind.config_class(**{_field(name): value for name, value in fields.items()}), server)
        fields = {name: value for name, value in fields.items() if value is not None or name not in _PLACE}
        if fields:
            left_out = ", ".join(sorted(fields))
            raise ConfigError(f"{kind.argument}= brings its own settings; leave out {left_out}, or {kind.argument}=")
        return kind(kind.checked(face))


class EmbedderAdapter(EmbedderOptions, AdapterModel):
    """A framework's embedding class: the options, and an embedder behind them."""

    lazy_class = LazyEmbedder
    _lazy: LazyEmbedder = PrivateAttr()
    embedder: SkipJsonSchema[SkipValidation[EmbedderProtocol | None]] = Field(
        default=None, exclude=True, repr=False, description="A ready embedder in place of a model and its settings."
    )

    def load(self) -> EmbedderProtocol:
        """The embedder behind, loaded now if it is not yet: to warm up, or for its NumPy arrays.

        Examples:
            >>> embeddings.load().encode_document(["a text", "another"]).shape
            (2, 384)
        """
        return self._lazy.load()

    @property
    def max_chunk_tokens(self) -> int:
        """The most tokens that a chunk may have, as `token_length` counts them, to be read whole. Loads the model.

        Examples:
            >>> embeddings.max_chunk_tokens  # 256 less [CLS] and [SEP]
            254
        """
        return self._lazy.splitter().chunk_tokens

    def token_length(self, text: str) -> int:
        """Tokens that a text adds within a document: a splitter's length function. Loads the model.

        Examples:
            >>> embeddings.token_length("what is MLX?")
            5
        """
        return self._lazy.splitter().length(text)

    def tokenize(self, text: str) -> list[str]:
        """The tokens that `token_length` counts: for splitters that take a tokenizer. Loads the model.

        Examples:
            >>> embeddings.tokenize("what is MLX?")
            ['what', 'is', 'ML', 'X', '?']
        """
        return self._lazy.splitter().tokens(text)


class RerankerAdapter(RerankerOptions, AdapterModel):
    """A framework's reranking class: the options, and a reranker behind them."""

    lazy_class = LazyReranker
    _lazy: LazyReranker = PrivateAttr()
    reranker: SkipJsonSchema[SkipValidation[RerankerProtocol | None]] = Field(
        default=None, exclude=True, repr=False, description="A ready reranker in place of a model and its settings."
    )

    def load(self) -> RerankerProtocol:
        """The reranker behind, loaded now if it is not yet: to warm up, or for its own methods.

        Examples:
            >>> compressor.load().predict([("a question", "a text")]).shape
            (1,)
        """
        return self._lazy.load()


class SparseAdapter(SparseOptions, AdapterModel):
    """A framework's class for learned sparse vectors: the options, and a sparse embedder behind them."""

    lazy_class = LazySparseEmbedder
    _lazy: LazySparseEmbedder = PrivateAttr()
    embedder: SkipJsonSchema[SkipValidation[SparseEmbedderProtocol | None]] = Field(
        default=None, exclude=True, repr=False, description="A ready sparse embedder in place of a model and settings."
    )

    def load(self) -> SparseEmbedderProtocol:
        """The sparse embedder behind, loaded now if it is not yet: to warm up, or for its own methods.

        Examples:
            >>> len(sparse_model.load().encode_query(["harbour"]))
            1
        """
        return self._lazy.load()

    @classmethod
    def _settled(cls, given: Mapping[str, Any]) -> Lazy[Any, Any]:
        refuse_truncate_dim(given)
        return super()._settled(given)


def _server(said: Mapping[str, Any]) -> Server | None:
    """What the fields of a place say; ConfigError for those that mean nothing without a server."""
    place = {name: said.get(name) for name in _PLACE}
    if place["base_url"] is None:
        if needless := [name for name in ("api_key", "fingerprint") if place[name] is not None]:
            raise ConfigError(f"{' and '.join(needless)} is for a server; give base_url too, or leave it out")
        return None
    timeout_s, key = place["timeout_s"], place["api_key"]
    if timeout_s is None:
        timeout_s = 600.0
    return Server(
        Address(place["base_url"], key.get_secret_value() if isinstance(key, SecretStr) else key, timeout_s),
        place["fingerprint"],
    )


def _place(server: Server | None) -> dict[str, Any]:
    """The fields that say where the model is."""
    if server is None:
        return {}
    address = server.address
    return {
        "base_url": address.base_url,
        "api_key": address.api_key,
        "timeout_s": address.timeout_s,
        "fingerprint": server.fingerprint,
    }


def _same(value: object, default: object) -> bool:
    """Whether both are one plain value."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return plain and type(value) is type(default) and value == default


def _field(name: str) -> str:
    return "model" if name == "model_name" else name
