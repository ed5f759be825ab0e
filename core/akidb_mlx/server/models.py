"""The models that are served: a name each, loaded on first use, once, off the event loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.options import MODEL_ALIASES
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ClosedError

__all__ = ["Models", "ServedModel"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model under the name that requests give."""

    name: str
    embedder: Embedder
    facts: Mapping[str, Any]
    """`Embedder.info()` at the time of loading."""


class Models:
    """Names to models. All methods belong to one event loop."""

    def __init__(
        self, configs: Mapping[str, EmbedderConfig], load: Callable[[EmbedderConfig], Embedder] = Embedder.load
    ) -> None:
        """Serve at least one configuration; the first is the default's."""
        self.configs = dict(configs)
        self.created = int(time.time())
        self._load = load
        self._loading: dict[str, asyncio.Task[ServedModel]] = {}
        self._closed = False

    @property
    def default(self) -> str:
        """The name that stands for a request without one (AkiDB's)."""
        return next(iter(self.configs))

    @property
    def loaded(self) -> Iterator[ServedModel]:
        """What is loaded by now."""
        for task in self._loading.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                yield task.result()

    def known_name(self, name: str) -> str | None:
        """The served name that `name` stands for: itself, the model's own name, or an alias of that."""
        if name in self.configs:
            return name
        model = MODEL_ALIASES.get(name, name)
        return next((known for known, config in self.configs.items() if config.model == model), None)

    async def get(self, name: str) -> ServedModel:
        """The model of a served name; the first caller loads it, and whoever gives up leaves it loading.

        Raises:
            What `Embedder.load` raises; the next caller tries again.
        """
        if self._closed:
            raise ClosedError("the server is shutting down")
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load_model(name))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # logged, if nobody waits
        return await asyncio.shield(task)

    async def preload(self) -> None:
        """Load every model, one after the other."""
        for name in self.configs:
            await self.get(name)

    async def close(self) -> None:
        """Give all models back."""
        self._closed = True
        for model in self.loaded:
            await asyncio.to_thread(model.embedder.close)

    async def _load_model(self, name: str) -> ServedModel:
        began = time.monotonic()
        try:
            embedder = await _apart(lambda: self._load(self.configs[name]))
            await embedder.aencode(["the first forward compiles and warms up"])
            facts = await asyncio.to_thread(embedder.info)
        except BaseException as error:
            del self._loading[name]
            _log.error("model not loaded", extra={"fields": {"model": name, "error": str(error)}})
            raise
        seconds = round(time.monotonic() - began, 3)
        _log.info("model loaded", extra={"fields": {"model": name, "seconds": seconds, "backend": facts["backend"]}})
        return ServedModel(name, embedder, facts)


async def _apart(work: Callable[[], Embedder]) -> Embedder:
    """In a thread that does not keep the process from ending: loading may be a long download."""
    future: Future[Embedder] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="akidb-mlx-load", daemon=True).start()
    return await asyncio.wrap_future(future)
