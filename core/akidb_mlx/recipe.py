"""What both adapters stand on: an embedder that loads on first use."""

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self

from akidb_mlx.config import EmbedderConfig, suggestion
from akidb_mlx.embedder import Embedder, EmbedderProtocol
from akidb_mlx.errors import ConfigError
from akidb_mlx.vectors import Embeddings

__all__ = ["LazyEmbedder", "settle"]

# Rows that become Python floats at a time in an event loop: a few milliseconds' work.
_ROWS_AT_A_TIME = 256


class LazyEmbedder:
    """A configuration that becomes an embedder on first use, once, whatever thread or event loop asks.

    Vectors come as lists of Python floats, which is what the frameworks take. Copies share it.
    """

    def __init__(self, source: EmbedderConfig | EmbedderProtocol) -> None:
        """Load nothing yet; an embedder is taken as it is."""
        ready = not isinstance(source, EmbedderConfig)
        self.config: EmbedderConfig | None = getattr(source, "config", None) if ready else source
        self._embedder: EmbedderProtocol | None = source if ready else None
        # By process: a load that another thread had begun never ends in a forked child.
        self._loads: dict[int, Future[EmbedderProtocol]] = {}

    def load(self) -> EmbedderProtocol:
        """The embedder; the first caller loads it while the others wait."""
        if self._embedder is not None:
            return self._embedder
        future, is_mine = self._claim()
        if is_mine:
            self._settle(future)
        return future.result()

    async def aload(self) -> EmbedderProtocol:
        """`load` in a thread of its own, which leaves the event loop and its executor free."""
        if self._embedder is not None:
            return self._embedder
        future, is_mine = self._claim()
        if is_mine:
            threading.Thread(target=self._settle, args=(future,), name="akidb-mlx-load", daemon=True).start()
        return await asyncio.wrap_future(future)

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        row: list[float] = self.load().encode_query([text])[0].tolist()
        return row

    def embed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[list[float]]:
        """The vectors of documents, in order; [] for none, without loading anything."""
        if isinstance(texts, list | tuple) and not texts:
            return []
        rows: list[list[float]] = self.load().encode_document(texts, show_progress=show_progress).tolist()
        return rows

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        row: list[float] = (await (await self.aload()).aencode_query([text]))[0].tolist()
        return row

    async def aembed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        if isinstance(texts, list | tuple) and not texts:
            return []
        embedder = await self.aload()
        return await _as_lists(await embedder.aencode_document(texts, show_progress=show_progress))

    def _claim(self) -> tuple["Future[EmbedderProtocol]", bool]:
        """The load of this process, and whether the caller is the one to do it."""
        mine: Future[EmbedderProtocol] = Future()
        mine.set_running_or_notify_cancel()  # so that a cancelled waiter does not cancel it for the others
        future = self._loads.setdefault(os.getpid(), mine)
        return future, future is mine

    def _settle(self, future: "Future[EmbedderProtocol]") -> None:
        assert self.config is not None
        try:
            self._embedder = Embedder.load(self.config)
        except BaseException as error:
            del self._loads[os.getpid()]
            future.set_exception(error)
        else:
            future.set_result(self._embedder)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def settle(given: Mapping[str, Any], own: Mapping[str, Any]) -> LazyEmbedder:
    """A lazy embedder from an adapter's arguments: `embedder`, or the fields of EmbedderConfig.

    `own` are the adapter's other arguments, which only count as known names.

    Raises:
        ConfigError: an unknown name, a bad value, or both an embedder and fields for another.
    """
    fields = {name: value for name, value in given.items() if name not in own}
    embedder = fields.pop("embedder", None)
    known = [*EmbedderConfig.model_fields, *own, "embedder"]
    for name in fields:
        if name not in EmbedderConfig.model_fields:
            hint = suggestion(name, known) or ";"
            raise ConfigError(f"unknown argument {name}{hint} allowed: {', '.join(sorted(known))}")
    if embedder is None:
        return LazyEmbedder(EmbedderConfig(**fields))
    if fields:
        raise ConfigError(f"embedder= brings its own settings; leave out {', '.join(sorted(fields))}, or embedder=")
    for method in ("encode_query", "encode_document", "aencode_query", "aencode_document"):
        if not callable(getattr(embedder, method, None)):
            raise TypeError(f"embedder is a {type(embedder).__name__}, which has no {method} (see EmbedderProtocol)")
    return LazyEmbedder(embedder)


async def _as_lists(rows: Embeddings) -> list[list[float]]:
    """Rows as Python floats, giving the event loop its turn in between."""
    lists: list[list[float]] = []
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        if start:
            await asyncio.sleep(0)
        lists += rows[start : start + _ROWS_AT_A_TIME].tolist()
    return lists
