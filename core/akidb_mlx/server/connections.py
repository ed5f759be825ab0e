"""Connections: taken as long as there is room for them, and spoken to as HTTP/1.1."""

import asyncio
import errno
import logging
import select
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from akidb_mlx.server.team import Share

__all__ = ["Connection", "Listening"]

_log = logging.getLogger(__name__)
# Nothing is left of these for the moment; all else that accept() says is about the one connection, which is gone.
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# How long after it ran short, or looked for room, it tries again (seconds).
_PAUSE_S, _LOOK_S = 1.0, 0.25
# A connection that has been idle for this many seconds is closed where others wait.
_IDLE_S = 1.0
# So long a worker leaves a connection to the others (seconds).
_OTHERS_S = 0.002
# Connections taken in one go, so that the event loop has its turn.
_TURN = 64


class Connection(H11Protocol):
    """uvicorn's, on h11, which keeps Upgrade offers to itself and knows how long it is idle."""

    used: float = 0.0
    """When it last said or heard something (monotonic seconds)."""
    gone: Callable[[], object] | None = None
    """Is called when it has ended."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self.used = time.monotonic()
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self.gone is not None:
            self.gone()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.used = time.monotonic()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """An answer is sent."""
        self.used = time.monotonic()
        super().on_response_complete()

    @property
    def busy(self) -> bool:
        """Whether a request of it is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _should_upgrade(self) -> bool:
        # A server may leave an offer alone (RFC 9110, 7.8): JVM clients offer h2c with each request, and uvicorn would
        # warn each time, and advise to install a parser that loses such bodies.
        return False


class _Joining:
    """A transport that sends together what is written in one turn of the event loop: an answer's head and body."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def close(self) -> None:
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Listening:
    """Takes connections from a listening socket, `most` at a time; the others wait in the system's own queue.

    In place of asyncio's, which at the limit of open files tries again some thousand times a second, with a traceback
    each. It has those methods of asyncio.Server that uvicorn calls.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], Connection],
        connections: Collection[Any],
        most: int,
        share: Share | None = None,
    ) -> None:
        """`make` gives what speaks with a client; `connections` are those that live; `share`: among several workers."""
        self._listener = listener
        self._make = make
        self._connections = connections
        self._most = most
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[Any]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._full = False
        self._said = -_PAUSE_S
        self._failures = 0
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more."""
        if self._listener.fileno() >= 0:
            self._pause()
            self._listener.close()

    async def wait_closed(self) -> None:
        """Until those that were just taken have begun."""
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._listener, self._accept)

    def _pause(self, then: Callable[[], None] | None = None, seconds: float = 0.0) -> None:
        self._loop.remove_reader(self._listener)
        if self._again is not None:
            self._again.cancel()
        self._again = self._loop.call_later(seconds, then) if then is not None else None

    def _accept(self) -> None:
        for _ in range(_TURN):
            count = len(self._connections) + len(self._beginning)
            if count >= self._most:
                self._look_for_room()
                return
            if self._share is not None:
                self._share.tell(count)
                if not self._share.is_next(count, self._loop.time()):
                    self._pause(self._listen, _OTHERS_S)  # those with fewer were woken too
                    return
            try:
                taken, _address = self._listener.accept()
            except OSError as error:
                if error.errno in _SHORT:
                    self._ran_short(error)
                    return
                if isinstance(error, BlockingIOError):
                    return
                continue  # it left before it was taken
            taken.setblocking(False)
            task = self._loop.create_task(self._begin(taken))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, taken: socket.socket) -> None:
        try:
            _, connection = await self._loop.connect_accepted_socket(self._make, taken)
            connection.gone = self._left
        except OSError as error:
            taken.close()
            _log.debug("a connection failed at its beginning: %s", error)

    def _left(self) -> None:
        if self._share is not None:
            self._share.tell(len(self._connections) + len(self._beginning))
        if self._full:
            self._full = False
            self._loop.call_soon(self._look_for_room)

    def _look_for_room(self) -> None:
        """While all places are taken: close idle connections where others wait, and look again a little later."""
        if self._listener.fileno() < 0:
            return
        room = self._most - len(self._connections) - len(self._beginning)
        if room <= 0 and select.select([self._listener], [], [], 0)[0]:
            now = time.monotonic()
            idle = [one for one in self._connections if not one.busy and now - one.used >= _IDLE_S]
            for one in sorted(idle, key=lambda one: one.used)[: max(1, self._most // 4)]:
                one.transport.close()
        self._full = room <= 0
        self._pause(self._look_for_room, _LOOK_S)
        if not self._full:
            self._pause()
            self._listen()

    def _ran_short(self, error: OSError) -> None:
        """No descriptor is left, though there should be: wait, and say so at most once a second."""
        self._failures += 1
        now = time.monotonic()
        if now - self._said >= _PAUSE_S:
            fields = {"error": str(error), "connections": len(self._connections), "times": self._failures}
            _log.warning("no connection can be taken for the moment", extra={"fields": fields})
            self._said, self._failures = now, 0
        self._pause(self._listen, _PAUSE_S)
