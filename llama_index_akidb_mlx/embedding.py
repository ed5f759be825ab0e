"""AkiDBMLXEmbedding: LlamaIndex's `BaseEmbedding` over `akidb_mlx.Embedder`."""

import logging
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from akidb_mlx import EmbedderConfig, EmbedderProtocol
from akidb_mlx.config import RUN_FIELDS, EmbedderOptions
from akidb_mlx.errors import ConfigError
from akidb_mlx.recipe import LazyEmbedder, settle
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings.loading import RECOGNIZED_EMBEDDINGS
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation, model_serializer

__all__ = ["AkiDBMLXEmbedding"]

_log = logging.getLogger(__name__)
# LlamaIndex's own arguments: they change how fast, not which vectors.
_OWN = {name: field for name, field in BaseEmbedding.model_fields.items() if name != "model_name"}
_NOT_SERIALISED = RUN_FIELDS | set(_OWN) | {"embedder"}


class AkiDBMLXEmbedding(EmbedderOptions, BaseEmbedding):
    """Text embeddings computed on this machine with MLX, equal to those of sentence-transformers.

    `pip install "akidb-mlx[llama-index]"` (on Linux also one of the extras `cpu`, `cuda12`, `cuda13`).

    `model_name` (or `model`) is a local folder, `package:NAME`, a Hub id or an alias; further arguments are every
    field of `akidb_mlx.EmbedderConfig` and LlamaIndex's own. What is not given comes from `AKIDB_MLX_*`
    variables, then a YAML file, then the checkpoint; all of it is read once, here. `embedder` is a ready
    `akidb_mlx.Embedder` (or a `FakeEmbedder`) in place of a model and its settings.

    Nothing is loaded until the first use (or `load()`); objects with the same settings share one model.
    What changes vectors is serialised and cannot be assigned afterwards; what changes only speed is neither.

    Examples:
        from llama_index.core import Settings
        from llama_index_akidb_mlx import AkiDBMLXEmbedding

        Settings.embed_model = AkiDBMLXEmbedding(model_name="Qwen/Qwen3-Embedding-0.6B", truncate_dim=256)

    Raises:
        ConfigError: (a `ValueError`) an unknown name or a bad value.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    embed_batch_size: int = Field(
        512, gt=0, le=2048, description="Texts a call; the engine makes its own batches, by tokens."
    )
    embedder: SkipValidation[EmbedderProtocol | None] = Field(
        None, exclude=True, repr=False, description="A ready embedder in place of a model and its settings."
    )
    _lazy: LazyEmbedder = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, /, **given: Any) -> None:
            self._settle(settle(_one_model_name(given), _OWN), given)

    def _settle(self, lazy: LazyEmbedder, given: Mapping[str, Any]) -> None:
        """Fill the fields with what was resolved."""
        if lazy.config is None:
            embedder = lazy.load()
            fields = {"model_name": f"{type(embedder).__name__}-{embedder.fingerprint[:16]}"}
        else:
            fields = {"model_name" if name == "model" else name: value for name, value in lazy.config}
        own = {name: value for name, value in given.items() if name in {*_OWN, "embedder"}}
        super().__init__(**fields, **own)
        self._lazy = lazy

    @classmethod
    def class_name(cls) -> str:
        """The name under which it is serialised."""
        return "AkiDBMLXEmbedding"

    @classmethod
    def from_config(cls, config: EmbedderConfig, **own: Any) -> Self:
        """An embedding with exactly this configuration; environment and files are not read again."""
        embedding = cls.__new__(cls)
        embedding._settle(LazyEmbedder(config), own)
        return embedding

    def load(self) -> EmbedderProtocol:
        """The embedder behind, loaded now if it is not yet: to warm up, or for its NumPy face."""
        return self._lazy.load()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._lazy.embed_query(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._lazy.embed_documents([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._lazy.embed_documents(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._lazy.aembed_query(query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._lazy.aembed_documents([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._lazy.aembed_documents(texts)

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: Any, info: Any) -> dict[str, Any]:
        """What decides vectors, as resolved at construction: LlamaIndex's ingestion cache is keyed by it."""
        data = {name: value for name, value in handler(self).items() if name not in _NOT_SERIALISED}
        return {**data, "class_name": self.class_name()}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in EmbedderConfig.model_fields or name in ("model_name", "embedder"):
            raise ConfigError(f"{name} is settled at construction; make another {type(self).__name__}")
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; with `update` one that is checked and settled anew."""
        if not update:
            return super().model_copy(deep=deep)
        fields = {name: value for name, value in _one_model_name(update).items() if name not in _OWN}
        return self.from_config(self._config().with_changes(**fields), **self._own() | dict(update.items() - fields.items()))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration; the model is found and loaded again from it.

        LlamaIndex's own way deletes what cannot be pickled from the live object.
        """
        config = self._config()
        return _restore, (type(self), config, {name: value for name, value in self._own().items() if _pickles(name, value)})

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OWN}

    def _config(self) -> EmbedderConfig:
        if self._lazy.config is None:
            raise pickle.PicklingError(
                f"made with embedder={self.model_name}, which has no configuration to make it again from; "
                "give a model instead of an embedder"
            )
        return self._lazy.config


def _one_model_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """`model_name` as EmbedderConfig's `model`."""
    if "model_name" not in given:
        return dict(given)
    if "model" in given:
        raise ConfigError("model_name and model mean the same; keep one")
    return {"model" if name == "model_name" else name: value for name, value in given.items()}


def _pickles(name: str, value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        _log.warning("%s cannot be pickled; the copy goes without it", name)
        return False
    return True


def _restore(cls: type[AkiDBMLXEmbedding], config: EmbedderConfig, own: dict[str, Any]) -> AkiDBMLXEmbedding:
    return cls.from_config(config, **own)


RECOGNIZED_EMBEDDINGS[AkiDBMLXEmbedding.class_name()] = AkiDBMLXEmbedding
