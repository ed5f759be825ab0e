"""What a device thread computes, where it comes from, and the thread's own state."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from akidb_mlx.engine.residency import Holder

__all__ = ["Batch", "Source", "Worker", "sleep_for_ever"]


class Batch(Protocol):
    """What a thread starts and finishes."""

    source: object
    """What gave it."""
    urgent: bool
    padded_tokens: int
    cpu: bool
    """Whether it computes on the thread's own core."""
    began: float
    """When it was started; 0 before."""

    def start(self) -> None:
        """Hand it to the device."""

    def finish(self, measured: Callable[[float], None], *, alone: bool) -> None:
        """Wait for it and answer; `measured` is told for how long, with the lock held. `alone`: none is behind it."""

    def recover(self, error: Exception, *, whole: bool) -> None:
        """It failed: compute it again, `whole` where the error may be another's, else in parts; or answer with it."""

    def ended(self) -> None:
        """It is answered or failed. The caller holds the lock."""

    def fail(self, error: Exception) -> None:
        """Answer with the error."""

    def learn(self, seconds: float) -> None:
        """Take note of its time. The caller holds the lock."""


class Source(Holder, Protocol):
    """What gives batches: the engine of one model. The caller holds the lock, but for `after_fork`."""

    cpu_lanes: int

    @property
    def waits(self) -> bool:
        """Whether any row waits that can be computed now."""

    def next_batch(self, in_flight: Sequence[Batch], now: float, *, reserved: bool, alone: bool) -> Batch | None:
        """The next batch for a thread that computes `in_flight`; None where it may take none, or none beside them."""

    def drain(self) -> Callable[[Exception], None]:
        """Take out all that waits; gives what fails it."""

    def after_fork(self) -> None:
        """In a forked child: what waited belongs to the parent."""


class Worker:
    """One of the threads, and what it computes."""

    def __init__(self, lane: int) -> None:
        """The thread of core `lane`, not started yet; 0 is the first one, which also serves a GPU."""
        self.lane = lane
        self.thread: threading.Thread | None = None
        self.batches: deque[Batch] = deque()
        """Oldest first; the last one may not be started yet."""
        self.idle = False
        self.free_since = 0.0
        """End of the last batch that was waited for."""
        self.unseen: list[Batch] = []
        """Batches since then whose own end is not known; they share the time between."""
        self.careful = 0
        """Batches that are still to compute one at a time."""

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self.thread is not None and self.thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether it computes or is about to."""
        return self.alive and not self.idle

    @property
    def sleeps_for_ever(self) -> bool:
        """Whether it needs Python's lock no more; a fixed wait was too short on a busy machine."""
        thread = self.thread
        frame = None if thread is None or thread.ident is None else sys._current_frames().get(thread.ident)
        if frame is None:
            return True
        # At the function's first line the lock may still change hands; after it, only within `acquire`.
        return frame.f_code is sleep_for_ever.__code__ and frame.f_lineno > frame.f_code.co_firstlineno


def sleep_for_ever(lock: threading.Lock) -> None:
    """Wait for a lock that is never released, in a frame of this name: see `Worker.sleeps_for_ever`."""
    lock.acquire()
