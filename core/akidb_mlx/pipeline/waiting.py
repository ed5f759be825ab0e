"""Coroutines that are written once: awaited in an event loop, or run to their end on a thread that blocks.

A coroutine takes `wait_for` and waits with nothing else. Where that is `blocking` it is never suspended, so that its
first step is its last and no event loop is needed.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar
from weakref import WeakSet

__all__ = ["THREADS", "Threads", "Wait", "after", "blocking", "in_event_loop", "iterate", "run"]

T = TypeVar("T")
P = ParamSpec("P")
THREADS = 2
"""Parts of a call that are tokenised at once in this process."""


class Wait(Protocol):
    """How to wait for a future."""

    def __call__(self, future: "Future[T]", /) -> Awaitable[T]: ...  # noqa: D102


async def blocking(future: "Future[T]", /) -> T:
    """On this thread."""
    return future.result()


async def in_event_loop(future: "Future[T]", /) -> T:
    """Without blocking the loop; cancelling the task cancels the future."""
    return future.result() if future.done() else await asyncio.wrap_future(future)


def after(seconds: float) -> "Future[None]":
    """A future that is done by then."""
    future: Future[None] = Future()

    def end() -> None:
        if future.set_running_or_notify_cancel():
            future.set_result(None)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return future


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits with `blocking`."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("it waits for an event loop")


def iterate(generator: AsyncGenerator[T, None]) -> Iterator[T]:
    """The items of an async generator that waits with `blocking`."""
    try:
        while True:
            try:
                item = run(generator.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(generator.aclose())


class Threads:
    """A call's part of the process's threads for work of milliseconds; they leave an event loop free."""

    def __init__(self, count: int = THREADS, *, urgent: bool = False) -> None:
        """`count` is how many pieces a caller has under way at once; `urgent` ones have threads of their own."""
        self.count = count
        self._urgent = urgent
        self._under_way: WeakSet[Future[Any]] = WeakSet()

    def do(self, much: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Work on a thread where it is much, else here and now. The work waits for no other of its kind."""
        if not much:
            done: Future[T] = Future()
            done.set_result(work(*args, **kwargs))
            return done
        piece = _Piece(partial(work, *args, **kwargs))
        self._under_way.add(piece.future)
        try:
            _threads(self._urgent).submit(piece)
        except RuntimeError:  # no thread is to be had: the process is ending, or may have no more
            piece()
        return piece.future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for future in self._under_way:
            future.cancel()


class _Piece(Generic[T]):
    """Work that is done once, though a pool that could start no thread for it keeps it in its queue."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        self._work = work
        self._begun = threading.Lock()

    def __call__(self) -> None:
        if not self._begun.acquire(blocking=False) or not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._work()
        except BaseException as error:
            self.future.set_exception(error)
            del self  # the error's traceback would hold the future that holds the error
        else:
            self.future.set_result(result)


# Idle ones cost little. Pieces may wait here: for a tokenizer that is read anew, for a process that cuts texts.
_MOST_THREADS, _MOST_URGENT = 32, 8
_pools: dict[bool, ThreadPoolExecutor] = {}
_inherited: list[ThreadPoolExecutor] = []
"""A parent process's; a forked child has none of their threads and leaves them alone."""


def _threads(urgent: bool = False) -> ThreadPoolExecutor:
    """The process's, started when there is work: a thread for each call would cost as much as a short text."""
    pool = _pools.get(urgent)
    if pool is None:  # two at once may make two, of which one ends when its work is done
        most = _MOST_URGENT if urgent else _MOST_THREADS
        pool = _pools[urgent] = ThreadPoolExecutor(most, "akidb-mlx-tokenize")
    return pool


def _after_fork() -> None:
    _inherited.extend(_pools.values())
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)
