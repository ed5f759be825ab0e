"""AkiDBMLXEmbedding: LlamaIndex's `BaseEmbedding` over `akidb_mlx.Embedder`."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings.loading import RECOGNIZED_EMBEDDINGS
from llama_index.core.schema import BaseNode
from pydantic import ConfigDict, Field

from akidb_mlx.adapters.base import EmbedderAdapter
from akidb_mlx.adapters.lazy import Lazy
from akidb_mlx.adapters.progress import progress_over
from akidb_mlx.adapters.texts import checked
from akidb_mlx.config.options import ModelName
from akidb_mlx.errors import AkiDBMLXError, InputError
from llama_index_akidb_mlx.cache import CachePerRecipe, for_queries
from llama_index_akidb_mlx.settled import SettledComponent

__all__ = ["AkiDBMLXEmbedding"]


class AkiDBMLXEmbedding(SettledComponent, EmbedderAdapter, BaseEmbedding):
    """Text embeddings computed on this machine with MLX, equal to those of sentence-transformers.

    `pip install "akidb-mlx[llama-index]"`; on Linux also one of the extras `cpu`, `cuda12`, `cuda13`.

    `model_name` (or `model`) is a local folder, `package:NAME`, a Hub id or an alias; further arguments are every
    field of `akidb_mlx.EmbedderConfig` and LlamaIndex's own. What is not given comes from `AKIDB_MLX_*` variables,
    then a YAML file, then the checkpoint; all of it is read once, here, and shows in the fields. `embedder` is a
    ready `akidb_mlx.Embedder` (or a `FakeEmbedder`) in place of a model and its settings.

    Nothing is loaded until the first use (or `load()`); objects with the same settings share one model. What
    changes vectors is serialised (and so decides the ingestion cache's key); what changes only speed is not.
    An `embeddings_cache` is kept apart by recipe and side, so that a text never gets the vector of a query.

    Examples:
        ```python
        from llama_index.core import Settings
        from llama_index_akidb_mlx import AkiDBMLXEmbedding

        Settings.embed_model = AkiDBMLXEmbedding(model_name="Qwen/Qwen3-Embedding-0.6B", truncate_dim=256)
        ```

    Raises:
        ConfigError: (a `ValueError`) an unknown name or a bad value.
    """

    model_config = ConfigDict(protected_namespaces=())  # `model_name` is no clash, whatever BaseEmbedding says

    embed_batch_size: int = Field(
        default=512,
        gt=0,
        le=2048,
        exclude=True,
        description="Texts per call; the engine makes its own batches, by tokens.",
    )
    num_workers: int | None = Field(
        default=None, exclude=True, description="Concurrent calls of the async batch methods."
    )
    if TYPE_CHECKING:  # both names are taken, and both can be read
        model: ModelName = Field(default_factory=ModelName)
        model_name: ModelName = Field(default_factory=ModelName)
    embeddings_cache: Any = Field(
        default=None, exclude=True, repr=False, description="A BaseKVStore of vectors, kept apart by recipe and side."
    )

    def _fill(self, lazy: Lazy[Any, Any], given: Mapping[str, Any]) -> None:
        super()._fill(lazy, given)
        self.embeddings_cache = self.embeddings_cache  # __setattr__ keeps it apart

    @classmethod
    def class_name(cls) -> str:
        """The name under which it is serialised.

        Examples:
            >>> AkiDBMLXEmbedding.class_name()
            'AkiDBMLXEmbedding'
        """
        return "AkiDBMLXEmbedding"

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

    @functools.wraps(BaseEmbedding.get_query_embedding)  # which also keeps LlamaIndex from tracing it twice
    def get_query_embedding(self, query: str) -> list[float]:
        """As BaseEmbedding."""
        with for_queries():
            return super().get_query_embedding(query)

    @functools.wraps(BaseEmbedding.aget_query_embedding)
    async def aget_query_embedding(self, query: str) -> list[float]:
        """As BaseEmbedding."""
        with for_queries():
            return await super().aget_query_embedding(query)

    @functools.wraps(BaseEmbedding.get_text_embedding_batch)
    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """As BaseEmbedding; the bar moves within a batch too, and an error has the text's place in `texts`."""
        texts = list(checked(texts))
        with progress_over(len(texts), show_progress), _numbered(texts):
            return super().get_text_embedding_batch(texts, **kwargs)

    @functools.wraps(BaseEmbedding.aget_text_embedding_batch)
    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """As BaseEmbedding; the bar moves within a batch too, and an error has the text's place in `texts`."""
        texts = list(checked(texts))
        with progress_over(len(texts), show_progress), _numbered(texts):
            return await super().aget_text_embedding_batch(texts, **kwargs)

    @functools.wraps(BaseEmbedding.__call__)
    def __call__(  # type: ignore[override]
        self, nodes: Sequence[BaseNode], **kwargs: Any
    ) -> Sequence[BaseNode]:
        """Embed the nodes that have no embedding; those that have one are only validated.

        Raises:
            InputError: a node's own embedding has another dimension or is not finite, or its text cannot be embedded;
                it names the node and its id.
        """
        missing = self._validate_nodes(nodes)
        if missing:
            with _named(nodes, missing):
                super().__call__(missing, **kwargs)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__` without blocking the event loop.

        Examples:
            >>> from llama_index.core.schema import TextNode
            >>> (node,) = asyncio.run(embed_model.acall([TextNode(text="a text")]))
            >>> len(node.embedding)
            384
        """
        if any(node.embedding is not None for node in nodes):
            await self._lazy.aload()
        missing = self._validate_nodes(nodes)
        if missing:
            with _named(nodes, missing):
                await super().acall(missing, **kwargs)
        return nodes

    def _validate_nodes(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        """Check the embeddings that are there; the nodes without one."""
        for place, node in enumerate(nodes):
            if node.embedding is not None:
                try:
                    node.embedding = self._lazy.validate([node.embedding])[0].tolist()
                except InputError as error:
                    problem = str(error).removeprefix("row 0 ")
                    raise InputError(f"the embedding of node {place} ({node.node_id}) {problem}") from None
        return [node for node in nodes if node.embedding is None]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "embeddings_cache" and value is not None:
            value = CachePerRecipe.over(value, self.to_dict())
        super().__setattr__(name, value)


@contextmanager
def _numbered(texts: Sequence[str]) -> Iterator[None]:
    """An error's place is that among all texts: the framework cuts them into batches."""
    try:
        yield
    except AkiDBMLXError as error:
        if error.text in texts:
            error.renumbered(texts.index(error.text))
        raise


@contextmanager
def _named(nodes: Sequence[BaseNode], missing: Sequence[BaseNode]) -> Iterator[None]:
    """An error names the node, with its place among `nodes`, whose text it is about."""
    try:
        yield
    except AkiDBMLXError as error:
        if error.text is not None and error.place is not None:
            node = missing[error.place]
            place = next(place for place, one in enumerate(nodes) if one is node)
            error.renumbered(place, f"node {place} ({node.node_id})")
        raise


RECOGNIZED_EMBEDDINGS[AkiDBMLXEmbedding.class_name()] = AkiDBMLXEmbedding
