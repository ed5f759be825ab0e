"""Waiting for the network no longer than it brings something."""

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, TypeVar

__all__ = ["Limit", "Unanswered", "Watch", "timed_out"]

_Result = TypeVar("_Result")


class Limit(NamedTuple):
    """How long is waited, for what, and which setting says so."""

    seconds: float
    what: str
    setting: str


class Unanswered(Exception):
    """Nothing came from the network within the limit."""

    def __init__(self, limit: Limit) -> None:
        """Keep the limit for the message."""
        super().__init__(f"waited {limit.seconds:g} s for {limit.what}")
        self.limit = limit


class Watch:
    """One call at a time to a library that itself may wait for ever: for a name, for an answer."""

    def __init__(self) -> None:
        """Nothing is waited for yet."""
        self._last = time.monotonic()
        self._unanswered: Unanswered | None = None

    def beat(self) -> None:
        """Say that something came; raises where nobody waits any more, so that the call ends."""
        if self._unanswered:
            raise self._unanswered
        self._last = time.monotonic()

    def run(self, call: Callable[[], _Result], limit: Limit) -> _Result:
        """What `call` gives or raises; Unanswered where neither it nor a `beat` comes within the limit.

        It runs in a thread of its own, which is left behind then: a thread cannot be stopped.
        """
        future: Future[_Result] = Future()
        context = contextvars.copy_context()
        self._last = time.monotonic()
        threading.Thread(target=context.run, args=(_fulfil, future, call), name="hub", daemon=True).start()
        try:
            while not future.done():
                left = self._last + limit.seconds - time.monotonic()
                if left <= 0:
                    raise Unanswered(limit)
                wait([future], left)
            return future.result()
        finally:  # also where the user interrupts
            self._unanswered = None if future.done() else Unanswered(limit)


def _fulfil(future: "Future[Any]", call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def timed_out(error: BaseException) -> bool:
    """Whether it is the time limit of the client's HTTP library, which is one of two."""
    return any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)
