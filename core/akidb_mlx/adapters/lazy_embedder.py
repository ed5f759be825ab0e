"""An embedder that loads on first use, with the frameworks' lists of Python floats for vectors."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import ArrayLike

from akidb_mlx import vectors
from akidb_mlx.adapters.lazy import Lazy
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.embedder import Embedder, EmbedderProtocol
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.remote.embedder import RemoteEmbedder
from akidb_mlx.splitting import TextSplitter, splitter_for
from akidb_mlx.vectors import Embeddings

__all__ = ["LazyEmbedder"]

# Rows that become Python floats at a time in an event loop: a few milliseconds' work.
_ROWS_AT_A_TIME: Final = 256


class LazyEmbedder(Lazy[EmbedderConfig, EmbedderProtocol]):
    """Vectors come as lists of Python floats; documents wait where the engine's queue is full."""

    config_class = EmbedderConfig
    remote_class = RemoteEmbedder
    argument = "embedder"
    protocol = "EmbedderProtocol"
    needs = ("encode_query", "encode_document", "aencode_query", "aencode_document")
    may_share = True
    _splitter: TextSplitter | None = None

    @classmethod
    def checked(cls, face: Any) -> EmbedderProtocol:
        """As Lazy; of a HybridEmbedder its dense embedder."""
        return super().checked(face.dense if isinstance(face, HybridEmbedder) else face)

    def _make(self, config: EmbedderConfig) -> EmbedderProtocol:
        return Embedder.load(config)

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        row: list[float] = self.load().encode_query([text])[0].tolist()
        return row

    def embed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[list[float]]:
        """The vectors of documents, in order; [] for none, without loading anything."""
        if _nothing(texts):
            return []
        embedder = self.load()
        if isinstance(embedder, Embedder):
            rows = embedder.encode_document(texts, show_progress=show_progress, wait=True)
        else:
            rows = embedder.encode_document(texts, show_progress=show_progress)
        lists: list[list[float]] = rows.tolist()
        return lists

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        embedder = await self.aload()
        row: list[float] = (await embedder.aencode_query([text]))[0].tolist()
        return row

    async def aembed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        if _nothing(texts):
            return []
        embedder = await self.aload()
        if isinstance(embedder, Embedder):
            rows = await embedder.aencode_document(texts, show_progress=show_progress, wait=True)
        else:
            rows = await embedder.aencode_document(texts, show_progress=show_progress)
        return await _as_lists(rows)

    def splitter(self) -> TextSplitter:
        """What cuts texts by the model's own tokens, as documents; loads the model.

        Raises:
            ConfigError: the model has no limit of its own, or is none that has tokens.
        """
        embedder = self.load()
        if not isinstance(embedder, Embedder):
            raise ConfigError(f"a {type(embedder).__name__} has no tokenizer by which texts could be split")
        if self._splitter is None:
            self._splitter = splitter_for(embedder)
        return self._splitter

    def validate(self, vectors_: ArrayLike, *, unit_length: bool = False) -> Embeddings:
        """Vectors from elsewhere as (n, dimension) float32; InputError names the row that cannot be taken."""
        return vectors.validate(vectors_, self.load().dimension, unit_length=unit_length)


def _nothing(texts: object) -> bool:
    return isinstance(texts, list | tuple) and not texts


async def _as_lists(rows: Embeddings) -> list[list[float]]:
    """Rows as Python floats, giving the event loop its turn in between."""
    lists: list[list[float]] = []
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        if start:
            await asyncio.sleep(0)
        lists += rows[start : start + _ROWS_AT_A_TIME].tolist()
    return lists
