"""The threads that touch MLX: they load, compute batches and end with the process, whichever model they serve.

MLX's streams belong to threads and each thread that used MLX leaves another behind: hence a few for all models,
that live as long as the process. A GPU is served by the first thread alone, which has the next batch ready while
one computes. On the CPU each core has a thread of its own, because MLX lets a thread run only some hundred
operations ahead of the device and then holds it: one thread could not keep two cores busy.
"""

import _queue
import _thread
import atexit
import copy
import ctypes
import inspect
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from akidb_mlx.engine.query_clock import QueryClock
from akidb_mlx.engine.residency import Holder, Residency
from akidb_mlx.engine.worker import Source, Worker, sleep_for_ever
from akidb_mlx.errors import BackendError, ClosedError

__all__ = ["DEVICE_THREADS", "DeviceThreads"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_EXIT_S = 10.0
# A shorter wait means that the batch had ended before, so that its end is not known (seconds).
_SEEN_S = 0.0002
# After a GPU's failure this many batches compute one at a time, so that the next error has one cause.
_CAREFUL_BATCHES = 32
# How often a GPU is asked whether it still computes before it is given up.
_ANSWERS = 3
# What `threading` starts threads with, before and from Python 3.13 on.
_STARTERS = ("_start_new_thread", "_start_joinable_thread")
_PATCHED = (
    "threads or their queues are patched in this process (by gevent or eventlet), and MLX needs real ones: patch "
    "everything else with monkey.patch_all(thread=False, queue=False), or let gunicorn take gthread or sync workers"
)


class DeviceThreads:
    """The first thread runs what else touches MLX and serves GPUs; each further one is a core of the CPU."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.deaths = 0
        self.query_clock = QueryClock()
        self.residency = Residency(self)
        self._broken: BackendError | None = None
        self._engines: list[Source] = []
        # Before they touch the cache MLX waits for all CPU streams, which never answers in a forked child:
        # the threads of its parent's streams are not there.
        self._has_run = self.inherits_streams = False
        self._reset()

    def _reset(self) -> None:
        self.condition = threading.Condition()
        self._tasks: deque[Callable[[], None]] = deque()
        self._task_runs = False
        self._workers: list[Worker] = []
        self._pauses = 0
        self._stopping = False
        self._dead = False
        self._turn = 0

    @property
    def healthy(self) -> bool:
        """False from a thread's unexpected end until the next request starts another, and once a GPU is lost."""
        return not self._dead and self._broken is None

    def check_usable(self) -> None:
        """Raise where nothing can be computed any more, or not here.

        Raises:
            ClosedError: the process is ending.
            BackendError: the GPU is lost to this process; threads are patched.
        """
        if self._stopping:
            raise ClosedError("the process is ending")
        if self._broken is not None:
            raise copy.copy(self._broken)
        starters = (_thread.start_new_thread, *(getattr(threading, name, None) for name in _STARTERS))
        real = all(starter is None or inspect.isbuiltin(starter) for starter in starters)
        if not real or queue.SimpleQueue is not _queue.SimpleQueue:  # the latter wakes thread pools
            raise BackendError(_PATCHED)

    def add(self, engine: Source) -> None:
        """Serve this engine from now on."""
        with self.condition:
            self._engines.append(engine)

    def remove(self, engine: Source) -> None:
        """Serve it no more."""
        with self.condition:
            if engine in self._engines:
                self._engines.remove(engine)

    @property
    def holders(self) -> Sequence[Holder]:
        """The engines whose weights can be freed. The caller holds the lock, as for the next one."""
        return [engine for engine in self._engines if engine.residence is not None]

    def computes(self, holder: Holder) -> bool:
        """Whether a batch of this engine is under way."""
        return any(batch.source is holder.runtime for worker in self._workers for batch in worker.batches)

    def run(self, work: Callable[[], T]) -> "Future[T]":
        """Run something that touches MLX on the first thread, while no batch computes; see `check_usable`."""
        future: Future[T] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self.condition:
            self.check_usable()
            self._tasks.append(task)
            self.wake()
        return future

    def clear_cache(self) -> None:
        """Give freed memory back to the system. On a thread."""
        import mlx.core as mx

        if not self.inherits_streams:
            mx.clear_cache()
            _trim_heap()

    def set_cache_limit(self, megabytes: int) -> None:
        """Bound the freed memory that MLX keeps in this process; a forked child keeps its parent's. On a thread."""
        import mlx.core as mx

        if not self.inherits_streams:
            mx.set_cache_limit(megabytes * 2**20)

    def trim_cache(self, megabytes: int) -> None:
        """Leave MLX so much freed GPU memory to keep, but its limit, which others in this process share, as it was."""
        import mlx.core as mx

        if mx.get_cache_memory() <= megabytes * 2**20:
            return
        with self.condition:
            theirs = mx.set_cache_limit(megabytes * 2**20)
            mx.array([0.0] * 16)  # what is beyond the limit goes when memory is asked for, here without the device
            mx.set_cache_limit(theirs)

    def wake(self) -> None:
        """Something waits: call the threads that are free, or start one. The caller holds the lock."""
        self._dead = False  # those that live serve it, where none is started
        if not self._workers or not self._workers[0].alive:
            self._start_worker(0)
        elif self._tasks or not all(engine.cpu_lanes for engine in self._engines):
            self.condition.notify_all()  # the first one is meant
        elif any(worker.alive and worker.idle for worker in self._workers):
            self.condition.notify_all()
        else:
            lanes = max((engine.cpu_lanes for engine in self._engines), default=1)
            lane = next((worker.lane for worker in self._workers if not worker.alive), len(self._workers))
            if lane < lanes:
                self._start_worker(lane)

    def _start_worker(self, lane: int) -> None:
        worker = Worker(lane)
        self._workers[lane : lane + 1] = [worker]
        name = f"akidb-mlx-{lane}" if lane else "akidb-mlx"
        worker.thread = threading.Thread(target=self._live, args=(worker,), name=name, daemon=True)
        worker.thread.start()
        self._has_run = True

    def stop(self) -> None:
        """At the process's end: let the batches that are computed now end and fail what waits.

        The threads themselves stay, asleep: MLX keeps compiled functions for each thread and asks for Python's
        lock to drop them when the thread ends, which aborts a process that is finalising.
        """
        with self.condition:
            self._stopping = True
            drained = [engine.drain() for engine in self._engines]
            self.condition.notify_all()
            self.condition.wait_for(self._all_idle, _EXIT_S)
        for fail in drained:
            fail(ClosedError("the process is ending"))
        until = time.monotonic() + _EXIT_S
        while not all(worker.sleeps_for_ever for worker in self._workers) and time.monotonic() < until:
            time.sleep(0.001)  # without Python's lock, so that the threads get to where they sleep

    def pause(self) -> None:
        """Let the device run empty and keep the lock: a fork in the midst of a product of matrices hangs."""
        self.condition.acquire()
        self._pauses += 1
        while not self._all_idle():
            self.condition.wait()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._pauses -= 1
        self.condition.notify_all()
        self.condition.release()

    def after_fork(self) -> None:
        """In the child there are no such threads, and nobody holds the lock."""
        self.inherits_streams = self.inherits_streams or self._has_run
        self._reset()
        for engine in self._engines:
            engine.after_fork()

    def _all_idle(self) -> bool:
        return not any(worker.busy for worker in self._workers)

    def _live(self, worker: Worker) -> None:
        try:
            while True:
                self._step(worker)
        except BaseException as error:
            self.deaths += 1
            _log.exception("a device thread ended unexpectedly; the next request starts another")
            self._fail_all(worker, BackendError(f"a device thread ended: {error!r}; try again"))

    def _fail_all(self, worker: Worker, error: Exception) -> None:
        with self.condition:
            self._dead, worker.thread = True, None
            failed = [batch.fail for batch in worker.batches] + [engine.drain() for engine in self._engines]
            for batch in worker.batches:
                batch.ended()
            worker.batches.clear()
            self._task_runs = self._task_runs and worker.lane > 0
            self.condition.notify_all()
            if self._tasks and not self._stopping:
                self.wake()
        for fail in failed:
            fail(error)

    def _step(self, worker: Worker) -> None:
        """One thing: a task, the next batch's start, or the oldest batch's end."""
        task = self._find_work(worker)
        if task:
            task()
            with self.condition:
                self._task_runs = False
                self.condition.notify_all()  # batches waited for its end
        elif not worker.batches:
            lock = threading.Lock()
            lock.acquire()
            sleep_for_ever(lock)
        elif not worker.batches[-1].began:
            self._start(worker)
        else:
            self._finish(worker)

    def _find_work(self, worker: Worker) -> Callable[[], None] | None:
        """Wait for a task (returned) or a batch to start or end (the worker's); neither when all ends."""
        with self.condition:
            while True:
                now = time.monotonic()
                self._look_after_weights(now)
                task = None if self._pauses else self._next_task(worker)
                if task:
                    self._task_runs = True
                elif not self._pauses and not self._stopping and not self._tasks and not self._task_runs:
                    self._take_batch(worker)
                if task or worker.batches:
                    worker.idle = False
                    return task
                if not worker.idle:
                    worker.idle = True
                    self.condition.notify_all()  # who waits for that
                if self._stopping:
                    return None
                self.condition.wait(None if worker.lane else self.residency.wait_s(now))

    def _look_after_weights(self, now: float) -> None:
        """Where some are to be freed or loaded, that is the first thread's next task."""
        if self._pauses or self._stopping or self._tasks or self._task_runs:
            return
        if self.residency.due(now):
            self._tasks.append(self.residency.work)
            self.condition.notify_all()

    def _next_task(self, worker: Worker) -> Callable[[], None] | None:
        others = any(other.busy for other in self._workers if other is not worker)
        return None if not self._tasks or worker.lane or worker.batches or others else self._tasks.popleft()

    def _take_batch(self, worker: Worker) -> None:
        """The next batch of the models in turn, where this thread has room for it."""
        now = time.monotonic()
        others = sum(any(not batch.urgent for batch in w.batches) for w in self._workers if w is not worker)
        for _ in range(len(self._engines)):
            self._turn = (self._turn + 1) % len(self._engines)
            engine = self._engines[self._turn]
            serves = worker.lane < max(1, engine.cpu_lanes)
            if engine.waits and serves:
                reserved = engine.cpu_lanes > 1 and others >= engine.cpu_lanes - 1
                batch = engine.next_batch(worker.batches, now, reserved=reserved, alone=worker.careful > 0)
                if batch is not None:
                    worker.batches.append(batch)
                    worker.idle = False
                    if any(engine.waits for engine in self._engines):
                        self.wake()  # another thread for what waits still
                    return

    def _start(self, worker: Worker) -> None:
        batch = worker.batches[-1]
        batch.began = time.perf_counter()
        try:
            batch.start()
        except Exception as error:
            self._failed(worker, error)

    def _finish(self, worker: Worker) -> None:
        batch = worker.batches[0]

        def measured(waited: float) -> None:
            now = time.perf_counter()
            worker.unseen.append(batch)
            if waited < _SEEN_S and not batch.cpu and len(worker.batches) > 1:
                return
            seconds = now - max(worker.unseen[0].began, worker.free_since)
            tokens = sum(one.padded_tokens for one in worker.unseen)
            for one in worker.unseen:
                one.learn(seconds * one.padded_tokens / tokens)
            worker.unseen.clear()
            worker.free_since = now

        try:
            batch.finish(measured, alone=len(worker.batches) == 1)
        except Exception as error:
            self._failed(worker, error)
            return
        with self.condition:
            worker.batches.popleft().ended()
            worker.careful = max(0, worker.careful - 1)

    def _failed(self, worker: Worker, error: Exception) -> None:
        """A batch failed. A GPU may report what another one met: all that it was given are computed again, in turn."""
        with self.condition:
            batches = list(worker.batches)
            worker.unseen.clear()
            worker.careful = _CAREFUL_BATCHES
            for batch in batches:
                batch.ended()
        for batch in batches:  # they stay in the worker's list meanwhile, for it is busy
            try:
                batch.recover(error, whole=len(batches) > 1)
            except BackendError as fatal:
                self._lose_device(fatal)
                break
        with self.condition:
            worker.batches.clear()

    def surface_errors(self, *, alone: bool) -> None:
        """Raise what the GPU met, which MLX may report only at the next use of its stream. On a GPU's thread.

        `alone`: nothing else computes there, so that it can be waited for.
        """
        import mlx.core as mx

        if alone:
            mx.synchronize()
        else:
            mx.async_eval(mx.zeros(1) + 1)

    def settle(self, error: Exception) -> None:
        """After a GPU's failure: let it end all it has, give its freed memory back, see that it still computes.

        Raises:
            BackendError: it does not, and will not in this process.
        """
        import mlx.core as mx

        for _ in range(_ANSWERS):  # MLX may first report what it kept
            try:
                mx.synchronize()
                self.clear_cache()
                if float(mx.sum(mx.arange(9, dtype=mx.float32) + 1.5)) == 49.5:
                    return
            except Exception as again:
                error = again
        raise BackendError(
            f"the GPU is lost to this process ({error}): restart the process. Where its memory ran out, close other "
            "programs that use the GPU or set a lower max_batch_tokens"
        )

    def _lose_device(self, error: BackendError) -> None:
        """Nothing more is computed in this process: all that waits fails, and what comes is refused."""
        with self.condition:
            self._broken = error
            failed: list[Callable[[Exception], None]] = []
            failed += [batch.fail for worker in self._workers for batch in worker.batches]
            failed += [engine.drain() for engine in self._engines]
        _log.critical("%s", error)
        for fail in failed:
            fail(error)


def _trim_heap() -> None:
    """Have the C library give freed memory back, where it is glibc; it keeps hundreds of megabytes otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


DEVICE_THREADS = DeviceThreads()
atexit.register(DEVICE_THREADS.stop)
os.register_at_fork(
    before=DEVICE_THREADS.pause,
    after_in_parent=DEVICE_THREADS.resume,
    after_in_child=DEVICE_THREADS.after_fork,
)
