"""AkiDBMLXEmbeddings: LangChain's `Embeddings` over `akidb_mlx.Embedder`."""

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from akidb_mlx import EmbedderConfig, EmbedderProtocol
from akidb_mlx.config import EmbedderOptions, ModelName
from akidb_mlx.errors import ConfigError
from akidb_mlx.recipe import LazyEmbedder, settle
from langchain_core.embeddings import Embeddings
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr, SkipValidation

__all__ = ["AkiDBMLXEmbeddings"]

_OWN = {"show_progress": False}


class AkiDBMLXEmbeddings(EmbedderOptions, Embeddings):
    """Text embeddings computed on this machine with MLX, equal to those of sentence-transformers.

    Setup:
        ``pip install "akidb-mlx[langchain]"`` (on Linux also one of the extras ``cpu``, ``cuda12``, ``cuda13``).

    Key init args:
        model (or model_name): a local folder, ``package:NAME``, a Hub id or an alias.
        truncate_dim, query_prompt, document_prompt, normalize, max_seq_length, …: every field of
            ``akidb_mlx.EmbedderConfig``. What is not given comes from ``AKIDB_MLX_*`` variables, then a
            YAML file, then the checkpoint; all of it is read once, here.
        embedder: a ready ``akidb_mlx.Embedder`` (or a ``FakeEmbedder``) in place of all these.
        show_progress: a progress bar over documents.

    Instantiate:
        .. code-block:: python

            from langchain_akidb_mlx import AkiDBMLXEmbeddings

            embeddings = AkiDBMLXEmbeddings(model="Qwen/Qwen3-Embedding-0.6B", truncate_dim=256)

        Nothing is loaded until the first use (or ``embeddings.load()``); objects with the same settings share
        one model.

    Embed single text:
        .. code-block:: python

            embeddings.embed_query("What is MLX?")  # with the model's query prompt

    Embed multiple texts:
        .. code-block:: python

            embeddings.embed_documents(["MLX is an array framework.", "A second text."])

    Async:
        .. code-block:: python

            await embeddings.aembed_query("What is MLX?")
            await embeddings.aembed_documents(["MLX is an array framework."])

    Raises:
        ConfigError: (a ``ValueError``) an unknown name or a bad value.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
    )

    model: ModelName = Field(
        "",
        validation_alias=AliasChoices("model", "model_name"),
        description="A local folder, package:NAME (an installed package with a model), a Hub id, or an alias.",
    )
    embedder: SkipValidation[EmbedderProtocol | None] = Field(
        None, exclude=True, repr=False, description="A ready embedder in place of a model and its settings."
    )
    show_progress: bool = Field(False, description="Show a progress bar over documents.")
    _lazy: LazyEmbedder = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, /, **given: Any) -> None:
            self._settle(settle(_one_model_name(given), _OWN), given)

    def _settle(self, lazy: LazyEmbedder, given: Mapping[str, Any]) -> None:
        """Fill the fields with what was resolved."""
        name = type(lazy.load()).__name__ if lazy.config is None else lazy.config.model
        fields = {"model": name} if lazy.config is None else dict(lazy.config)
        own = {name: value for name, value in given.items() if name in {*_OWN, "embedder"}}
        super().__init__(**fields, **own)
        self._lazy = lazy

    @classmethod
    def from_config(cls, config: EmbedderConfig, *, show_progress: bool = False) -> Self:
        """Embeddings with exactly this configuration; environment and files are not read again."""
        embeddings = cls.__new__(cls)
        embeddings._settle(LazyEmbedder(config), {"show_progress": show_progress})
        return embeddings

    def load(self) -> EmbedderProtocol:
        """The embedder behind, loaded now if it is not yet: to warm up, or for its NumPy face."""
        return self._lazy.load()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, with the model's document prompt if it has one, in their order."""
        return self._lazy.embed_documents(texts, show_progress=self.show_progress)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with the model's query prompt if it has one."""
        return self._lazy.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        return await self._lazy.aembed_documents(texts, show_progress=self.show_progress)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop; concurrent queries share forward passes."""
        return await self._lazy.aembed_query(text)

    @property
    def cache_namespace(self) -> str:
        """For `CacheBackedEmbeddings`: changes exactly when the vectors would. Loads the model."""
        name = self.model.rstrip("/").rsplit("/", 1)[-1].removeprefix("package:")
        return f"{name}-{self.load().fingerprint[:16]}-"

    def __repr__(self) -> str:
        settings = {name: getattr(self, name) for name in sorted(type(self).model_fields)} | {"model": self.model}
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        said = [f"{n}={v!r}" for n, v in settings.items() if n not in ("model", "embedder") and v != defaults[n]]
        return f"{type(self).__name__}({', '.join([f'model={self.model!r}', *said])})"

    __str__ = __repr__

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; with `update` one that is checked and settled anew."""
        if not update:
            return super().model_copy(deep=deep)
        config, own = self._config(), {"show_progress": self.show_progress}
        own |= {name: value for name, value in update.items() if name in _OWN}
        fields = {name: value for name, value in update.items() if name not in _OWN}
        return self.from_config(config.with_changes(**fields), **own)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration; the model is found and loaded again from it."""
        return _restore, (type(self), self._config(), self.show_progress)

    def _config(self) -> EmbedderConfig:
        if self._lazy.config is None:
            raise pickle.PicklingError(
                f"made with embedder={self.model}, which has no configuration to make it again from; "
                "give a model instead of an embedder"
            )
        return self._lazy.config


def _one_model_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """`model_name` as `model`."""
    if "model_name" not in given:
        return dict(given)
    if "model" in given:
        raise ConfigError("model and model_name mean the same; keep one")
    return {"model" if name == "model_name" else name: value for name, value in given.items()}


def _restore(cls: type[AkiDBMLXEmbeddings], config: EmbedderConfig, show_progress: bool) -> AkiDBMLXEmbeddings:
    return cls.from_config(config, show_progress=show_progress)
