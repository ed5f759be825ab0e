"""A sparse embedder that loads on first use, with the frameworks' lists of plain numbers for rows."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from akidb_mlx.adapters.lazy import Lazy
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.remote.sparse_embedder import RemoteSparseEmbedder
from akidb_mlx.sparse_embedder import SparseEmbedder, SparseEmbedderProtocol
from akidb_mlx.sparse_rows import SparseRows

__all__ = ["LazySparseEmbedder", "PlainRow"]

PlainRow = tuple[list[int], list[float]]
"""Positions in ascending order, and their values."""
# Rows that become Python numbers at a time in an event loop: a few milliseconds' work.
_ROWS_AT_A_TIME: Final = 128


class LazySparseEmbedder(Lazy[SparseConfig, SparseEmbedderProtocol]):
    """Rows come as lists of Python numbers; documents wait where the engine's queue is full."""

    config_class = SparseConfig
    remote_class = RemoteSparseEmbedder
    argument = "embedder"
    protocol = "SparseEmbedderProtocol"
    needs = ("encode_query", "encode_document", "aencode_query", "aencode_document")
    may_share = True

    @classmethod
    def checked(cls, face: Any) -> SparseEmbedderProtocol:
        """As Lazy; of a HybridEmbedder its sparse embedder."""
        return super().checked(face.sparse if isinstance(face, HybridEmbedder) else face)

    def _make(self, config: SparseConfig) -> SparseEmbedderProtocol:
        return SparseEmbedder.load(config)

    def embed_queries(self, texts: Sequence[str]) -> list[PlainRow]:
        """The rows of queries, in order; [] for none, without loading anything."""
        return [] if _nothing(texts) else _plain(self.load().encode_query(texts))

    def embed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[PlainRow]:
        """The rows of documents, in order; [] for none, without loading anything."""
        if _nothing(texts):
            return []
        embedder = self.load()
        if isinstance(embedder, SparseEmbedder):
            return _plain(embedder.encode_document(texts, show_progress=show_progress, wait=True))
        return _plain(embedder.encode_document(texts, show_progress=show_progress))

    async def aembed_queries(self, texts: Sequence[str]) -> list[PlainRow]:
        """`embed_queries` without blocking the event loop."""
        if _nothing(texts):
            return []
        return await _aplain(await (await self.aload()).aencode_query(texts))

    async def aembed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[PlainRow]:
        """`embed_documents` without blocking the event loop."""
        if _nothing(texts):
            return []
        embedder = await self.aload()
        if isinstance(embedder, SparseEmbedder):
            return await _aplain(await embedder.aencode_document(texts, show_progress=show_progress, wait=True))
        return await _aplain(await embedder.aencode_document(texts, show_progress=show_progress))


def _nothing(texts: object) -> bool:
    return isinstance(texts, list | tuple) and not texts


def _plain(rows: SparseRows) -> list[PlainRow]:
    return [(indices.tolist(), values.tolist()) for indices, values in rows]


async def _aplain(rows: SparseRows) -> list[PlainRow]:
    """`_plain`, giving the event loop its turn in between."""
    plain: list[PlainRow] = []
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        if start:
            await asyncio.sleep(0)
        plain += _plain(rows[start : start + _ROWS_AT_A_TIME])
    return plain
