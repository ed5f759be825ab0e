"""Requests to one server: sent on the caller's thread, or from an event loop of our own; tried again where that helps.

One asynchronous client serves callers of all threads and event loops, so that cancelling a call of either closes its
connection, which takes it out of the server's queue.
"""

import asyncio
import atexit
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from akidb_mlx.errors import AkiDBMLXError, BackendError, ClosedError, ConfigError, QueueFullError
from akidb_mlx.pipeline.waiting import run
from akidb_mlx.remote.address import Address
from akidb_mlx.remote.answers import error_of

if TYPE_CHECKING:
    import httpx2

__all__ = ["Answer", "Connection", "connect", "hold", "release"]

T = TypeVar("T")
_CONNECT_S: Final = 5.0
# How long a caller who may wait tries a server again that was there and is gone: it may be restarting (seconds).
_RESTART_S: Final = 30.0
# A connection that was kept alive may be gone by the time it is used; a second one too.
_LOST_AT_ONCE: Final = 2
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class Answer(NamedTuple):
    """What a server gave."""

    headers: Mapping[str, str]
    body: bytes


Post = Callable[[str, bytes], Awaitable["httpx2.Response"]]


class Connection:
    """One server's clients in this process; any thread may use them."""

    def __init__(self, address: Address) -> None:
        """Connect to nothing yet; ConfigError where the HTTP client is not installed."""
        try:
            import httpx2
        except ImportError:
            raise ConfigError("base_url needs httpx2: pip install 'akidb-mlx[remote]'") from None
        self.address = address
        self.users = 0
        self._http = httpx2
        self._limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=60.0)
        self._met = False
        """Whether it ever answered."""
        self._urls: dict[str, httpx2.URL] = {}
        """Of paths; reading one takes as long as a small answer."""
        self._client = httpx2.Client(transport=self._transport(httpx2.HTTPTransport), **self._options())
        self._async_client: httpx2.AsyncClient | None = None

    def ask(self, path: str, body: bytes, *, wait: bool, command: str) -> Answer:
        """A request's answer, on this thread. Raises as `submit`'s future."""
        return run(self._answer(path, body, wait, command, self._post, _sleep))

    def submit(self, path: str, body: bytes, *, wait: bool, command: str, take: Callable[[Answer], T]) -> "Future[T]":
        """What `take` makes of a request's answer; cancelling it closes the request's connection.

        With `wait` it comes again where the server's queue is full, or while it starts anew. `command` starts such a
        server.

        The future raises:
            BackendError: no server, no answer in time; what it says itself. QueueFullError, ClosedError, InputError,
            ConfigError, ModelNotFoundError, CheckpointError, UnsupportedModelError: what it says.
        """

        async def answer() -> T:
            return take(await self._answer(path, body, wait, command, self._apost, asyncio.sleep))

        return in_background(answer())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        if self._async_client is not None:
            in_background(self._async_client.aclose())

    async def _answer(
        self, path: str, body: bytes, wait: bool, command: str, post: Post, sleep: Callable[[float], Awaitable[None]]
    ) -> Answer:
        patience = _Patience(wait)
        while True:
            try:
                response = await post(path, body)
            except self._http.TransportError as problem:
                trouble = self._trouble(problem, command)
            else:
                self._met = True
                if response.status_code == 200:
                    return Answer(response.headers, response.content)
                error = error_of(response.status_code, response.headers, response.content, self.address.base_url)
                trouble = _Trouble(error, passes=isinstance(error, QueueFullError | ClosedError))
            await sleep(patience.pause(trouble))

    def _trouble(self, problem: "httpx2.TransportError", command: str) -> "_Trouble":
        """What a failed connection is to the caller."""
        if isinstance(problem, self._http.ConnectError | self._http.ConnectTimeout):
            said = f"no server answers at {self.address} ({problem}); start one: {command}"
            return _Trouble(BackendError(said), passes=self._met)
        if isinstance(problem, self._http.TimeoutException):
            return _Trouble(BackendError(f"{self.address} gave no answer within {self.address.timeout_s:g} s"))
        return _Trouble(BackendError(f"the connection to {self.address} was lost: {problem}"), passes=True, lost=True)

    async def _post(self, path: str, body: bytes) -> "httpx2.Response":
        return self._client.post(self._url(path), content=body, headers=self._headers())

    async def _apost(self, path: str, body: bytes) -> "httpx2.Response":
        if self._async_client is None:  # made in its loop, where nobody else makes one
            transport = self._transport(self._http.AsyncHTTPTransport)
            self._async_client = self._http.AsyncClient(transport=transport, **self._options())
        return await self._async_client.post(self._url(path), content=body, headers=self._headers())

    def _url(self, path: str) -> "httpx2.URL":
        if path not in self._urls:
            self._urls[path] = self._http.URL(self.address.url + path)
        return self._urls[path]

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", **self.address.headers}

    def _options(self) -> dict[str, Any]:
        return {
            "timeout": self._http.Timeout(self.address.timeout_s, connect=_CONNECT_S, pool=None),
            "limits": self._limits,
            "trust_env": not self.address.is_here,
        }

    def _transport(self, kind: Callable[..., T]) -> T | None:
        """What speaks over a Unix socket; None for the client's own."""
        return None if self.address.socket is None else kind(uds=self.address.socket, limits=self._limits)


class _Trouble(NamedTuple):
    """Why there is no answer."""

    error: AkiDBMLXError
    passes: bool = False
    """Whether there may be one a little later."""
    lost: bool = False
    """Whether the connection broke."""


class _Patience:
    """How long one request comes again."""

    def __init__(self, wait: bool) -> None:
        self._wait = wait
        self._since: float | None = None
        self._lost = 0
        self._pause = _PAUSE_S

    def pause(self, trouble: _Trouble) -> float:
        """Seconds until the next try; raises the error where there is no use in one, or nobody wants to wait."""
        self._lost += trouble.lost
        if trouble.lost and self._lost <= _LOST_AT_ONCE:
            return 0.0
        if not (trouble.passes and self._wait):
            raise trouble.error
        if isinstance(trouble.error, QueueFullError):  # it lives
            self._since = None
            return trouble.error.retry_after_s
        self._since = time.monotonic() if self._since is None else self._since
        if time.monotonic() - self._since > _RESTART_S:
            raise trouble.error
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE_S)
        return pause


async def _sleep(seconds: float) -> None:
    time.sleep(seconds)


_lock = threading.Lock()
_connections: dict[Address, Connection] = {}
_loop: asyncio.AbstractEventLoop | None = None
_inherited: list[Any] = []
"""A parent process's, which a forked child leaves alone."""


def connect(address: Address) -> Connection:
    """This process's connection to a server."""
    with _lock:
        return _connection(address)


def hold(address: Address) -> None:
    """One user more."""
    with _lock:  # which the last of the other users takes to close it
        _connection(address).users += 1


def _connection(address: Address) -> Connection:
    if address not in _connections:
        _connections[address] = Connection(address)
    return _connections[address]


def release(address: Address) -> None:
    """One user less; the last one closes the connections."""
    with _lock:
        connection = _connections.get(address)
        if connection is None:  # a forked child's, which never asked
            return
        connection.users -= 1
        if connection.users > 0:
            return
        del _connections[address]
    connection.close()


def in_background(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Run it in our event loop, whose thread is started when there is something."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="akidb-mlx-http", daemon=True).start()
        loop = _loop
    return asyncio.run_coroutine_threadsafe(work, loop)


def _at_exit() -> None:
    """Close what is open; calls that still run are cancelled."""
    for connection in list(_connections.values()):
        connection._client.close()
    if _loop is not None and _loop.is_running():
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(_end(), _loop).result(1.0)
        _loop.call_soon_threadsafe(_loop.stop)


async def _end() -> None:
    mine = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not mine]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for connection in list(_connections.values()):
        if connection._async_client is not None:
            await connection._async_client.aclose()


def _after_fork() -> None:
    """In a forked child: sockets are the parent's, and the event loop's thread is not here."""
    global _lock, _loop
    _lock = threading.Lock()
    _inherited.append((dict(_connections), _loop))
    _connections.clear()
    _loop = None


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
