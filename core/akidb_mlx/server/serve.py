"""A process that serves until it is told to stop, and then finishes what it accepted."""

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import uvicorn

from akidb_mlx.config.sources import expanded
from akidb_mlx.server.app import create_app
from akidb_mlx.server.connections import Connection, Listening
from akidb_mlx.server.descriptors import raise_limit
from akidb_mlx.server.models import Models
from akidb_mlx.server.settings import ServerSettings
from akidb_mlx.server.state import State

__all__ = ["listen", "listen_uds", "serve"]

_log = logging.getLogger(__name__)
# How long after the shutdown began a connection may still bring a request, and be told to close (seconds).
_LAST_REQUESTS_S = 1.0


def serve(models: Models, settings: ServerSettings, api_key: str | None) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for requests.

    Raises:
        OSError: the address cannot be had. What `Embedder.load` raises, for a model loaded at the start.
    """
    with contextlib.ExitStack() as listeners:
        sockets: dict[str, socket.socket] = {}
        if settings.listens_on_tcp:
            if not settings.is_loopback and api_key is None:
                said = "anybody who reaches %s:%d may use this server: set an API key"
                _log.warning(said, settings.host, settings.port)
            listener = listeners.enter_context(listen(settings.host, settings.port))
            host, port = listener.getsockname()[:2]
            sockets[f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"] = listener
        if settings.uds is not None:
            path = expanded(settings.uds, "uds").absolute()
            sockets[f"unix://{path}"] = listeners.enter_context(listen_uds(path))
        asyncio.run(_serve(sockets, models, settings, api_key))


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 is a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            taken = f"port {port} of {host} is taken by another program"
            raise OSError(f"{taken}; serve at another with --port N, or --port 0 for any free one") from None
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None
    # asyncio sets it only where a socket names its protocol; each answer would wait 40 ms for the head's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.contextmanager
def listen_uds(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that its owner alone may connect to; it goes at the end.

    One that a server left behind is taken away; OSError where one is served, or the place is another file's.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as other:
                if other.connect_ex(str(path)) == 0:
                    raise OSError(errno.EADDRINUSE, "another server listens there", str(path))
            path.unlink()
        listener.bind(str(path))
        own = path.stat().st_ino
        try:
            path.chmod(0o600)  # before anybody can connect
            listener.listen(1024)
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == own:
                    path.unlink()


async def _serve(
    sockets: Mapping[str, socket.socket], models: Models, settings: ServerSettings, api_key: str | None
) -> None:
    app = create_app(models, settings, api_key)
    server = _Server(app.state.server, _uvicorn_config(app, settings), raise_limit(settings.max_requests))
    for url in sockets:
        _log.info("listening", extra={"fields": {"url": url, "models": list(models.configs)}})
    preload = asyncio.create_task(_preload(app.state.server, server, list(sockets)))
    await server.serve(sockets=list(sockets.values()))
    _log.info("stopped")
    preload.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await preload


def _greet(urls: Sequence[str], state: State) -> None:
    """A line for people, on standard output: the log is for machines."""
    web = [f"open {url}/" for url in urls if url.startswith("http")]
    where = ", ".join(web or urls)
    with contextlib.suppress(OSError, ValueError):  # nobody may be there to read it
        sys.stdout.write(f"akidb-mlx serves {', '.join(state.models.configs)}: {where} (Ctrl-C ends it)\n")
        sys.stdout.flush()


async def _preload(state: State, server: uvicorn.Server, urls: Sequence[str]) -> None:
    if not state.preloads:
        _greet(urls, state)
    else:
        try:
            await state.models.preload()
            _greet(urls, state)
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

    def __init__(self, state: State, config: uvicorn.Config, most_connections: int) -> None:
        super().__init__(config)
        self._state = state
        self._most_connections = most_connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets=[])
        make = partial(Connection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        for listener in sockets or []:
            listening = Listening(listener, make, self.server_state.connections, self._most_connections)
            self.servers.append(listening)  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection, tell the others to close with their next answer, then finish what runs."""
        self._state.stopping = True
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
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = True
