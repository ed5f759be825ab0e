"""Serving at sockets that are there: one process, alone or one worker of several, until it is told to stop."""

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import uvicorn

from akidb_mlx.server.app import create_app
from akidb_mlx.server.connections import Connection, Listening
from akidb_mlx.server.descriptors import raise_limit
from akidb_mlx.server.models import Models
from akidb_mlx.server.settings import ServerSettings
from akidb_mlx.server.state import State
from akidb_mlx.server.team import Team

__all__ = ["Greet", "serve_at"]

_log = logging.getLogger(__name__)
# So long a connection that is kept alive may still bring a request after the shutdown began, and be told to close.
_LAST_REQUESTS_S = 1.0
Greet = Callable[[Sequence[str], Iterable[str]], None]
"""Is called with the addresses and the models' names once what is preloaded is there."""


async def serve_at(
    sockets: Mapping[str, socket.socket],
    models: Models,
    settings: ServerSettings,
    api_key: str | None,
    *,
    greet: Greet,
    team: Team | None = None,
    own: socket.socket | None = None,
    until: int | None = None,
) -> None:
    """Serve at these addresses until SIGINT or SIGTERM.

    A worker of a `team` also answers the others at its `own` socket, and stops when nobody holds the other end of the
    pipe `until` any more.
    """
    app = create_app(models, settings, api_key, team)
    state: State = app.state.server
    server = _Server(state, _uvicorn_config(app, settings), raise_limit(settings.max_requests), own)
    for url in sockets:
        _log.info("listening", extra={"fields": {"url": url, "models": list(models.configs)}})
    loop = asyncio.get_running_loop()

    def left_alone(pipe: int) -> None:
        loop.remove_reader(pipe)  # it stays readable
        server.stop()

    if until is not None:
        loop.add_reader(until, left_alone, until)
    preload = asyncio.create_task(_preload(state, server, list(sockets), greet))
    try:
        await server.serve(sockets=list(sockets.values()))
    finally:
        if until is not None:
            loop.remove_reader(until)
    _log.info("stopped")
    preload.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await preload


async def _preload(state: State, server: uvicorn.Server, urls: Sequence[str], greet: Greet) -> None:
    try:
        if state.preloads:
            await state.models.preload()
        if state.stopping:
            return
        if state.team is not None:
            state.team.share.is_ready()
        greet(urls, state.models.configs)
    except BaseException:
        server.should_exit = True
        raise


def _uvicorn_config(app: object, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan="on",
        # On h11, never httptools: with that, bodies of requests that offer an upgrade are lost.
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_s),
    )


class _Server(uvicorn.Server):
    """uvicorn's, which ends with exit code 0 and says goodbye before it closes connections."""

    def __init__(
        self, state: State, config: uvicorn.Config, most_connections: int, own: socket.socket | None = None
    ) -> None:
        super().__init__(config)
        self._state = state
        self._most_connections = most_connections
        self._own = own

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets=[])
        make = partial(Connection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        share = None if self._state.team is None else self._state.team.share
        listeners = [(listener, share) for listener in sockets or []]
        for listener, of in [*listeners, *([(self._own, None)] if self._own is not None else [])]:
            listening = Listening(listener, make, self.server_state.connections, self._most_connections, of)
            self.servers.append(listening)  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection, tell the others to close with their next answer, then finish what runs."""
        self._state.stopping = True
        if self._state.team is not None:
            self._state.team.share.ends()
        _log.info("stopping", extra={"fields": {"requests": len(self.server_state.tasks)}})
        for server in self.servers:
            server.close()
        deadline = asyncio.get_running_loop().time() + _LAST_REQUESTS_S
        while self.server_state.connections and asyncio.get_running_loop().time() < deadline and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's, which raises the signal again at the end, as if the shutdown had failed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Stop; for the second time without waiting for what runs."""
        if self.should_exit:
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = True
