"""The models that are served: a name each, loaded on first use, once, off the event loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from akidb_mlx.any_model import load_any
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.options import MODEL_ALIASES
from akidb_mlx.errors import CheckpointError, ClosedError, InputError
from akidb_mlx.server.served import Loaded, ServedConfig, ServedKind, ServedModel, config_kind, serves

__all__ = ["Addressed", "Models", "ServedConfig", "ServedModel"]

_log = logging.getLogger(__name__)
_WARM_UP = "the first forward compiles and warms up"

# Tags behind a model's name that say what its texts are; any other, as Ollama's ":latest", means the model alone.
_SIDES: dict[str, Side] = {"query": "query", "document": "document", "passage": "document"}


class Addressed(NamedTuple):
    """What a request's model name stands for."""

    name: str
    """The name that it is served as."""
    side: Side | None
    """What its texts are, where the name has a tag that says so (`MODEL:query`)."""


class Models:
    """Names to models. All methods belong to one event loop."""

    def __init__(self, configs: Mapping[str, ServedConfig], load: Callable[[Any], Loaded] = load_any) -> None:
        """Serve at least one configuration; the first of a kind is the kind's default."""
        self.configs = dict(configs)
        self.created = int(time.time())
        self._load = load
        self._loading: dict[str, asyncio.Task[ServedModel]] = {}
        self._closed = False

    def default(self, kind: ServedKind) -> str | None:
        """The name that stands for a request without one; None where none of this kind is served."""
        return next(iter(self.names(kind)), None)

    def names(self, kind: ServedKind) -> list[str]:
        """The names of all models that answer what is asked of a kind."""
        return [name for name in self.configs if serves(self.kind(name), kind)]

    def kind(self, name: str) -> ServedKind:
        """What is served under a name."""
        return config_kind(self.configs[name])

    @property
    def loaded(self) -> Iterator[ServedModel]:
        """What is loaded by now."""
        for task in self._loading.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                yield task.result()

    def addressed(self, name: str) -> Addressed | None:
        """What `name` stands for: a served name, the model's own or an alias of that, each also with a tag behind."""
        known = self._known_name(name)
        if known is not None:
            return Addressed(known, None)
        bare, _, tag = name.rpartition(":")
        known = self._known_name(bare)
        return None if known is None else Addressed(known, _SIDES.get(tag.lower()))

    async def get(self, name: str) -> ServedModel:
        """The model of a served name; the first caller loads it, and whoever gives up leaves it loading.

        Raises:
            What the `load` of its kind raises; the next caller tries again.
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
            await model.variants.close()
            await asyncio.to_thread(model.model.close)

    def _known_name(self, name: str) -> str | None:
        if name in self.configs:
            return name
        model = MODEL_ALIASES.get(name, name)
        return next((known for known, config in self.configs.items() if config.model == model), None)

    async def _load_model(self, name: str) -> ServedModel:
        began = time.monotonic()
        try:
            model = await _apart(lambda: self._load(self.configs[name]))
            served = ServedModel(name, self.kind(name), model, {})
            await _warm_up(served)
            facts = await asyncio.to_thread(model.info)
        except BaseException as error:
            del self._loading[name]
            _log.error("model not loaded", extra={"fields": {"model": name, "error": str(error)}})
            raise
        seconds = round(time.monotonic() - began, 3)
        _log.info("model loaded", extra={"fields": {"model": name, "seconds": seconds, "backend": facts["backend"]}})
        return ServedModel(name, served.kind, model, facts)


async def _warm_up(served: ServedModel) -> None:
    """The first forward; CheckpointError where the model makes no numbers of a plain text: no user's is at fault."""
    try:
        await _first_forward(served)
    except InputError as error:
        raise CheckpointError(f"{served.name}: the server's own probe {_WARM_UP!r} failed: {error}") from error


async def _first_forward(served: ServedModel) -> None:
    if served.kind == "reranker":
        await served.reranker.apredict([(_WARM_UP, _WARM_UP)])
    elif served.kind == "embedder":
        await served.embedder.aencode([_WARM_UP])
    else:
        await served.encoder.aencode_document([_WARM_UP])  # some have no way without a side


async def _apart(work: Callable[[], Loaded]) -> Loaded:
    """In a thread that does not keep the process from ending: loading may be a long download."""
    future: Future[Loaded] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="akidb-mlx-load", daemon=True).start()
    return await asyncio.wrap_future(future)
