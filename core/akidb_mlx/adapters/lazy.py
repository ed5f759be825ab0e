"""An embedder that loads on first use, with the frameworks' lists of Python floats for vectors."""

import asyncio
import os
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from numpy.typing import ArrayLike

from akidb_mlx import vectors
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.embedder import Embedder, EmbedderProtocol
from akidb_mlx.vectors import Embeddings

__all__ = ["LazyEmbedder"]

# Rows that become Python floats at a time in an event loop: a few milliseconds' work.
_ROWS_AT_A_TIME: Final = 256


class LazyEmbedder:
    """A configuration that becomes an embedder on first use, once, whatever thread or event loop asks.

    Vectors come as lists of Python floats, which is what the frameworks take. Documents wait where the engine's
    queue is full.
    """

    def __init__(self, source: EmbedderConfig | EmbedderProtocol) -> None:
        """Load nothing yet; an embedder is taken as it is."""
        self.config: EmbedderConfig | None
        self._embedder: EmbedderProtocol | None = None
        if isinstance(source, EmbedderConfig):
            self.config = source
        else:
            config = getattr(source, "config", None)
            self.config = config if isinstance(config, EmbedderConfig) else None
            self._embedder = source
        # By process: a load that another thread had begun never ends in a forked child.
        self._loads: dict[int, Future[EmbedderProtocol]] = {}

    def load(self) -> EmbedderProtocol:
        """The embedder; the first caller loads it while the others wait."""
        if self._embedder is not None:
            return self._embedder
        future, is_mine = self._claim()
        if is_mine:
            self._fulfil(future)
        return future.result()

    async def aload(self) -> EmbedderProtocol:
        """`load` in a thread of its own, which leaves the event loop and its executor free."""
        if self._embedder is not None:
            return self._embedder
        future, is_mine = self._claim()
        if is_mine:
            threading.Thread(target=self._fulfil, args=(future,), name="akidb-mlx-load", daemon=True).start()
        return await asyncio.wrap_future(future)

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

    def validate(self, vectors_: ArrayLike, *, unit_length: bool = False) -> Embeddings:
        """Vectors from elsewhere as (n, dimension) float32; InputError names the row that cannot be taken."""
        return vectors.validate(vectors_, self.load().dimension, unit_length=unit_length)

    def picklable_config(self) -> EmbedderConfig:
        """What it can be made from again; PicklingError where that is unknown."""
        if self.config is None:
            raise pickle.PicklingError(
                f"embedder={type(self._embedder).__name__} has no configuration from which another process "
                "could make it again; give a model in place of an embedder"
            )
        return self.config

    def _claim(self) -> tuple["Future[EmbedderProtocol]", bool]:
        """This process's load, and whether the caller is the one to do it."""
        mine: Future[EmbedderProtocol] = Future()
        mine.set_running_or_notify_cancel()  # so that a waiter that is cancelled does not cancel it for the others
        future = self._loads.setdefault(os.getpid(), mine)
        return future, future is mine

    def _fulfil(self, future: "Future[EmbedderProtocol]") -> None:
        assert self.config is not None
        try:
            self._embedder = Embedder.load(self.config)
        except BaseException as error:
            del self._loads[os.getpid()]
            future.set_exception(error)
        else:
            future.set_result(self._embedder)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LazyEmbedder) or self.config is None:
            return self is other
        return self.config == other.config

    def __hash__(self) -> int:
        return id(self) if self.config is None else hash(self.config)

    def __str__(self) -> str:
        if self.config is None:
            return f"embedder={type(self._embedder).__name__}"
        plain = EmbedderConfig.model_fields
        said = [f"{name}={value!r}" for name, value in self.config if name != "model" and value != plain[name].default]
        return ", ".join([f"model={self.config.model!r}", *said])


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
