"""Reading, committing and writing on threads of their own, so that the device never waits for them."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

import pyarrow as pa

from akidb_mlx.corpus.parts import Parts

__all__ = ["Committing", "Following", "read_ahead"]

T = TypeVar("T")
# Rows that are read in one go, and how many such goes are ahead of who takes them.
_ROWS, _GOES = 256, 8


def read_ahead(rows: Iterator[T], size: Callable[[T], int], most: int) -> Generator[T, None, None]:
    """The same rows, read on another thread; at most about `most` bytes of them wait to be taken."""
    with ThreadPoolExecutor(1, thread_name_prefix="akidb-mlx-read") as reader:
        coming = deque(reader.submit(_some, rows, size, most // _GOES) for _ in range(_GOES))
        try:
            while True:
                some, error = coming.popleft().result()
                if some and error is None:
                    coming.append(reader.submit(_some, rows, size, most // _GOES))
                yield from some
                if error is not None:
                    raise error
                if not some:
                    return
        finally:
            for future in coming:
                future.cancel()


def _some(rows: Iterator[T], size: Callable[[T], int], most: int) -> tuple[list[T], Exception | None]:
    """The next rows, and the error that ends them."""
    some: list[T] = []
    try:
        for row in rows:
            some.append(row)
            most -= size(row)
            if len(some) == _ROWS or most <= 0:
                break
    except Exception as error:
        return some, error
    return some, None


class Committing(Generic[T]):
    """Work that is done in order on a thread; one piece at most waits, so that memory holds no more of them."""

    def __init__(self, work: Callable[[T], None]) -> None:
        """Start nothing yet."""
        self._work = work
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="akidb-mlx-commit")
        self._last: Future[None] | None = None

    def first(self, work: Callable[[], None]) -> None:
        """What is to be done before the first piece."""
        self._last = self._thread.submit(work)

    def add(self, piece: T) -> None:
        """Do this next; raises what the piece before it raised."""
        self.wait()
        self._last = self._thread.submit(self._work, piece)

    def wait(self) -> None:
        """Until all is done; raises what the last piece raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Finish what was begun. Its error counts unless there is one already."""
        try:
            self.wait()
        except BaseException:
            if error is None:
                raise
        finally:
            self._thread.shutdown()


class _GivenUpError(Exception):
    """The run ended early: there is no output."""


class Following:
    """Writes an output from the parts while these are still being added."""

    def __init__(self, parts: Parts, write: Callable[[Iterator[pa.Table]], None]) -> None:
        """`write` gets the parts' tables as they come; the iterator waits for the next one, and ends after `finish`."""
        self._parts = parts
        self._write = write
        self._changed = threading.Condition()
        self._there = 0
        self._whole = self._given_up = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="akidb-mlx-write", daemon=True)

    def __enter__(self) -> Self:
        self._there = len(self._parts.facts)
        self._thread.start()
        return self

    def added(self) -> None:
        """A part more is there."""
        self._tell(there=len(self._parts.facts))

    def finish(self) -> None:
        """No part comes any more: wait until the output is whole.

        Raises:
            OSError: writing failed, now or while parts were still added, which are safe.
        """
        self._tell(whole=True)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __exit__(self, *exc: object) -> None:
        self._tell(given_up=True)
        self._thread.join()

    def _tell(self, *, there: int | None = None, whole: bool = False, given_up: bool = False) -> None:
        with self._changed:
            self._there = self._there if there is None else there
            self._whole, self._given_up = self._whole or whole, self._given_up or given_up
            self._changed.notify()

    def _run(self) -> None:
        try:
            with contextlib.suppress(_GivenUpError):
                self._write(self._tables())
        except BaseException as error:  # raised where it is waited for
            self._error = error

    def _tables(self) -> Iterator[pa.Table]:
        index = 0
        while self._is_there(index):
            yield self._parts.table(index)
            index += 1

    def _is_there(self, index: int) -> bool:
        """Whether there is such a part; waits until that is known."""
        with self._changed:
            self._changed.wait_for(lambda: index < self._there or self._whole or self._given_up)
            if self._given_up and not self._whole:
                raise _GivenUpError
            return index < self._there
