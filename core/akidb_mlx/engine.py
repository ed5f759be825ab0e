"""Requests in, rows out: one thread of the process owns MLX and serves every loaded model.

The thread loads, evaluates and converts to NumPy; callers hand in token ids and wait on a future. While the
device computes one batch the thread pads and starts the next, so that the device does not wait.
"""

import atexit
import contextlib
import copy
import functools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.batching import make_batch
from akidb_mlx.errors import AkiDBMLXError, BackendError, ClosedError, InputError, QueueFullError
from akidb_mlx.scheduler import Job, Request, Scheduler
from akidb_mlx.stats import Stats
from akidb_mlx.tokenizer import TokenIds

if TYPE_CHECKING:
    import mlx.core as mx

    from akidb_mlx.model import EmbeddingModel

__all__ = ["DEVICE_THREAD", "FORKED", "DeviceThread", "Engine"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
FORKED = (
    "this process was forked from one that uses the GPU, which a child cannot share; "
    'start it with multiprocessing\'s "spawn", or fork before the first model is loaded'
)
# On each lane one batch computes, one is ready behind it.
_BATCHES_A_LANE = 2
_EXIT_S = 10.0


class Engine:
    """The requests of one loaded model."""

    def __init__(
        self,
        model: "EmbeddingModel",
        scheduler: Scheduler,
        max_queued_tokens: int,
        *,
        survives_fork: bool,
        cpu_lanes: int = 0,
        thread: "DeviceThread | None" = None,
    ) -> None:
        """Serve `model`, which was loaded on the device thread.

        `cpu_lanes` batches compute at the same time, each on a core; 0 stands for a GPU.
        """
        self.stats = Stats()
        self.scheduler = scheduler
        self.max_queued_tokens = max_queued_tokens
        self.dimension = model.dimension
        self.closed = False
        self.cpu_lanes = cpu_lanes
        self._model: EmbeddingModel | None = model
        self._survives_fork = survives_fork
        self._process = os.getpid()
        self._room: deque[tuple[int, Future[None]]] = deque()
        self._thread = thread or DEVICE_THREAD
        self._thread.add(self)

    def submit(
        self,
        token_ids: Sequence[TokenIds],
        *,
        urgent: bool = False,
        prompt_length: int = 0,
        first_index: int = 0,
        errors: dict[int, AkiDBMLXError] | None = None,
    ) -> "Future[NDArray[np.float32]]":
        """Queue some texts; the future gives their rows, (n, dimension) float32, in order.

        With `errors`, texts that are in there already (by place from `first_index`) are skipped, those that
        fail are put there, and their rows are NaN; without, the first failure is the future's.

        Raises:
            QueueFullError: more than `max_queued_tokens` would wait; see `room`.
            ClosedError: after `close`.
            BackendError: in a forked child of a process that uses a GPU.
        """
        request = Request(token_ids, urgent, prompt_length, time.monotonic(), first_index, errors)
        if not request.missing:
            request.future.set_result(np.full((len(token_ids), self.dimension), np.nan, np.float32))
            return request.future
        with self._thread.condition:
            self._check_usable()
            waiting = self.scheduler.queued_tokens
            if waiting and waiting + request.tokens > self.max_queued_tokens:
                self.stats.refused_requests += 1
                raise self._queue_full(request.tokens)
            self.stats.requests += 1
            self.stats.texts += len(token_ids)
            self.stats.tokens += request.tokens
            self.scheduler.add(request)
            self._thread.wake()
        request.future.add_done_callback(lambda _: self._release(request))
        return request.future

    def room(self, tokens: int) -> "Future[None]":
        """A future that is done once `tokens` more may be queued."""
        future: Future[None] = Future()
        with self._thread.condition:
            self._check_usable()
            self._room.append((tokens, future))
        self._offer_room()
        return future

    def close(self) -> None:
        """Drop the model, after the batch that is computed now; what still waits fails with ClosedError."""
        with self._thread.condition:
            if self.closed:
                return
            self.closed = True
            waiting = self.scheduler.drain()
            self._thread.remove(self)
        self.fail(waiting, ClosedError("the embedder was closed while this request waited"))
        self._offer_room()

        def drop() -> None:
            self._model = None
            self._thread.clear_cache()

        if self._survives_fork or self._process == os.getpid():
            with contextlib.suppress(ClosedError):  # the process is ending: nothing to give back any more
                self._thread.run(drop).result()

    def fail(self, requests: Sequence[Request], error: Exception) -> None:
        """Give an error to requests that are not answered yet."""
        for request in requests:
            if not request.future.done():
                self.stats.failed_requests += 1
                self._settle(request)
                try:
                    # Its own, for one error raised in many threads gathers all their tracebacks.
                    request.future.set_exception(copy.copy(error))
                except InvalidStateError:  # cancelled in between
                    continue

    def start(self, job: Job) -> "mx.array":
        """Pad a batch and hand it to the device, without waiting for it. On the device thread."""
        import mlx.core as mx

        assert self._model is not None
        batch = make_batch([row.token_ids for row in job.rows], [row.prompt_length for row in job.rows], job.length)
        rows = self._model(batch)
        mx.async_eval(rows)
        return rows

    def in_flight_limit(self, now: float) -> int:
        """Batches on the device at a time: while queries are about, none is ready behind those that compute."""
        lanes = max(1, self.cpu_lanes)
        return lanes if self.scheduler.queries_are_about(now) else _BATCHES_A_LANE * lanes

    def finish(self, job: Job, started: "mx.array", seconds: Callable[[], float]) -> None:
        """Wait for a batch and answer whose rows are complete. On the device thread."""
        import mlx.core as mx

        mx.eval(started)
        rows = np.array(started, copy=False)
        finite = np.isfinite(rows).all(axis=1)
        with self._thread.condition:
            self.scheduler.speed.add(job.padded_tokens, seconds())
            self.stats.batches += 1
            self.stats.rows += len(job.rows)
            self.stats.row_tokens += sum(len(row.token_ids) for row in job.rows)
            self.stats.padded_tokens += job.padded_tokens
        for row, values, is_finite in zip(job.rows, rows, finite, strict=True):
            while row.owners:
                request, index = row.owners[-1]
                if is_finite:
                    self._fill(request, index, values)
                else:
                    self._refuse(request, index, _not_finite(request.first_index + index))
                row.owners.pop()  # served, should the batch be tried again

    def recover(self, job: Job, error: Exception) -> None:
        """A batch failed: try its halves, so that only the rows that cause it fail. On the device thread."""
        self._thread.clear_cache()  # most often the device is out of memory
        if len(job.rows) == 1:
            reason = BackendError(f"the device failed on a text of {job.length} tokens: {error}")
            for request, index in job.rows[0].owners:
                self._refuse(request, index, reason)
            return
        _log.warning("a batch of %d rows failed (%s); trying its halves", len(job.rows), error)
        middle = len(job.rows) // 2
        for rows in (job.rows[:middle], job.rows[middle:]):
            half = Job(rows, max(len(row.token_ids) for row in rows), job.urgent)
            began = time.perf_counter()
            try:
                self.finish(half, self.start(half), functools.partial(_since, began))
            except Exception as again:
                self.recover(half, again)

    def after_fork(self) -> None:
        """In a forked child: what waited belongs to the parent."""
        self._room.clear()
        for request in self.scheduler.drain():
            self.scheduler.done(request)
        self.scheduler.queued_tokens = 0

    def _check_usable(self) -> None:
        if self.closed:
            raise ClosedError("the embedder is closed; load it again")
        if self._process != os.getpid() and not self._survives_fork:
            raise BackendError(FORKED)

    def _queue_full(self, tokens: int) -> QueueFullError:
        waiting = self.scheduler.queued_tokens
        line = self.scheduler.speed.line()
        seconds = max(0.1, waiting * line[1]) if line else 1.0
        return QueueFullError(
            f"{waiting} tokens wait already and {tokens} more would pass max_queued_tokens={self.max_queued_tokens}; "
            f"try again in {seconds:.1f} s, or raise max_queued_tokens",
            round(seconds, 1),
        )

    def _fill(self, request: Request, index: int, values: NDArray[np.float32] | float) -> None:
        """Put a row in its place; the last one answers the request."""
        if request.rows is None:
            request.rows = np.full((len(request.token_ids), self.dimension), np.nan, np.float32)
        request.rows[index] = values
        request.missing -= 1
        if not request.missing:
            self._answer(request)

    def _refuse(self, request: Request, index: int, error: AkiDBMLXError) -> None:
        """A text has no row: its request fails, or goes on without it where that is wanted."""
        if request.errors is None:
            self.fail([request], error)
        else:
            request.errors[request.first_index + index] = error
            self._fill(request, index, np.nan)

    def _answer(self, request: Request) -> None:
        rows = request.rows
        if rows is not None and not request.future.done():
            seconds = time.monotonic() - request.arrived
            (self.stats.query_latency if request.urgent else self.stats.document_latency).add(seconds)
            self._settle(request)
            try:
                request.future.set_result(rows)
            except InvalidStateError:  # cancelled in between
                return

    def _settle(self, request: Request) -> None:
        """Out of the queue before its caller knows, who may come again at once."""
        with self._thread.condition:
            self.scheduler.done(request)

    def _release(self, request: Request) -> None:
        with self._thread.condition:
            self.scheduler.done(request)
            if request.future.cancelled():
                self.stats.cancelled_requests += 1
        self._offer_room()

    def _offer_room(self) -> None:
        granted = []
        with self._thread.condition:
            while self._room:
                tokens, future = self._room[0]
                waiting = self.scheduler.queued_tokens
                full = waiting and waiting + tokens > self.max_queued_tokens
                if full and not self.closed and not future.cancelled():
                    break
                self._room.popleft()
                granted.append(future)
        for future in granted:
            if future.set_running_or_notify_cancel():
                future.set_result(None)


def _not_finite(index: int) -> AkiDBMLXError:
    return InputError(
        f"the vector of text {index} is not finite (NaN or infinity); "
        'the model overflows in this dtype: try dtype="float32"'
    )


def _sleep_for_ever(lock: threading.Lock) -> None:
    lock.acquire()


def _since(began: float) -> float:
    return time.perf_counter() - began


@dataclass(eq=False)
class _Started:
    """A batch on the device."""

    engine: Engine
    job: Job
    rows: "mx.array"
    lane: int
    began: float
    due: float
    """When it should end, by the engine's measure."""


class DeviceThread:
    """The thread that touches MLX: it starts with the first use and ends with the process.

    One thread for all models, because MLX's streams belong to threads and each thread that used MLX leaves
    another behind.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self.deaths = 0
        self._engines: list[Engine] = []
        # Before they touch the cache MLX waits for all CPU streams, which never answers in a forked child:
        # the threads of its parent's streams are not there.
        self._has_run = self.inherits_streams = False
        self._reset()

    def _reset(self) -> None:
        self.condition = threading.Condition()
        self._tasks: deque[Callable[[], None]] = deque()
        self._started: list[_Started] = []
        self._lanes: list[mx.Stream] = []
        self._starting: tuple[Engine, Job] | None = None
        self._thread: threading.Thread | None = None
        self._pauses = 0
        self._idle = True
        self._stopping = False
        self._dead = False
        self._turn = 0
        self._free_since: dict[int, float] = {}
        """Lane → when its last batch ended."""

    @property
    def healthy(self) -> bool:
        """False from the thread's unexpected end until the next request starts another."""
        return not self._dead

    def add(self, engine: Engine) -> None:
        """Serve this engine from now on."""
        with self.condition:
            self._engines.append(engine)

    def remove(self, engine: Engine) -> None:
        """Serve it no more."""
        with self.condition:
            if engine in self._engines:
                self._engines.remove(engine)

    def run(self, work: Callable[[], T]) -> "Future[T]":
        """Run something that touches MLX on the thread, between two batches."""
        future: Future[T] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self.condition:
            if self._stopping:
                raise ClosedError("the process is ending")
            self._tasks.append(task)
            self.wake()
        return future

    def clear_cache(self) -> None:
        """Give freed memory back to the system. On the thread."""
        import mlx.core as mx

        if not self.inherits_streams:
            mx.clear_cache()

    def set_cache_limit(self, megabytes: int) -> None:
        """Bound the freed memory that is kept; a forked child keeps its parent's bound. On the thread."""
        import mlx.core as mx

        if not self.inherits_streams:
            mx.set_cache_limit(megabytes * 2**20)

    def wake(self) -> None:
        """Tell the thread that something waits, and start it if there is none. The caller holds the lock."""
        if self._stopping:
            raise ClosedError("the process is ending")
        if self._thread is None or not self._thread.is_alive():
            self._dead = False
            self._thread = threading.Thread(target=self._live, name="akidb-mlx", daemon=True)
            self._thread.start()
            self._has_run = True
        self.condition.notify_all()

    def stop(self) -> None:
        """At the process's end: let the batch that is computed now end and fail what waits.

        The thread itself stays, asleep: MLX keeps compiled functions for each thread and asks for Python's
        lock to drop them when the thread ends, which aborts a process that is finalising.
        """
        with self.condition:
            self._stopping = True
            waiting = [(engine, engine.scheduler.drain()) for engine in self._engines]
            self.condition.notify_all()
            self.condition.wait_for(lambda: self._idle, _EXIT_S)
        for engine, requests in waiting:
            engine.fail(requests, ClosedError("the process is ending"))
        until = time.monotonic() + _EXIT_S
        while not self._sleeps_for_ever() and time.monotonic() < until:
            time.sleep(0.001)  # without Python's lock, so that the thread gets to where it sleeps

    def _sleeps_for_ever(self) -> bool:
        """Whether the thread needs Python's lock no more; a fixed wait was too short on a busy machine."""
        thread = self._thread
        frame = None if thread is None or thread.ident is None else sys._current_frames().get(thread.ident)
        if frame is None:
            return True
        # At the function's first line the lock may still change hands; after it, only within `acquire`.
        return frame.f_code is _sleep_for_ever.__code__ and frame.f_lineno > frame.f_code.co_firstlineno

    def pause(self) -> None:
        """Let the device run empty and keep the lock: a fork in the midst of a product of matrices hangs."""
        self.condition.acquire()
        self._pauses += 1
        while not self._idle:
            self.condition.wait()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._pauses -= 1
        self.condition.notify_all()
        self.condition.release()

    def after_fork(self) -> None:
        """In the child there is no such thread, and nobody holds the lock."""
        self.inherits_streams = self.inherits_streams or self._has_run
        self._reset()
        for engine in self._engines:
            engine.after_fork()

    def _live(self) -> None:
        try:
            while True:
                self._step()
        except BaseException as error:
            self.deaths += 1
            _log.exception("the device thread ended unexpectedly; the next request starts another")
            self._fail_all(BackendError(f"the device thread ended: {error!r}; try again"))

    def _fail_all(self, error: Exception) -> None:
        with self.condition:
            self._dead, self._idle, self._thread = True, True, None
            begun = [(batch.engine, batch.job) for batch in self._started]
            begun += [self._starting] if self._starting else []
            failed = [(engine, [r for row in job.rows for r, _ in row.owners]) for engine, job in begun]
            failed += [(engine, engine.scheduler.drain()) for engine in self._engines]
            self._started.clear()
            self._starting = None
            self._lanes.clear()  # streams belong to the thread that made them
            self.condition.notify_all()
            if self._tasks and not self._stopping:
                self.wake()
        for engine, requests in failed:
            engine.fail(requests, error)

    def _step(self) -> None:
        """One thing: a task, the next batch's start, or the oldest batch's end."""
        task = found = None
        with self.condition:
            while True:
                may_start = not self._pauses and not self._stopping
                if self._tasks and not self._started and not self._pauses:
                    task = self._tasks.popleft()
                elif may_start and not self._tasks:
                    found = self._next_job()
                self._idle = not (task or found or self._started)
                if not self._idle:
                    break
                self.condition.notify_all()
                if self._stopping:
                    break
                self.condition.wait()
        if task:
            task()
        elif found:
            self._start(*found)
        elif self._started:
            self._finish()
        else:
            lock = threading.Lock()
            lock.acquire()
            _sleep_for_ever(lock)

    def _next_job(self) -> tuple[Engine, Job] | None:
        """The next batch of the models in turn, where the device has room for it."""
        now = time.monotonic()
        for _ in range(len(self._engines)):
            self._turn = (self._turn + 1) % len(self._engines)
            engine = self._engines[self._turn]
            if engine.scheduler and len(self._started) < engine.in_flight_limit(now):
                job = engine.scheduler.next_job(now)
                if job is not None:
                    return engine, job
        return None

    def _start(self, engine: Engine, job: Job) -> None:
        self._starting = engine, job
        lanes = [batch.lane for batch in self._started]
        lane = min(range(max(1, engine.cpu_lanes)), key=lanes.count)
        began = time.perf_counter()
        behind = max((batch.due for batch in self._started if batch.lane == lane), default=began)
        due = behind + engine.scheduler.speed.seconds(job.padded_tokens)
        try:
            with self._on(engine, lane):
                self._started.append(_Started(engine, job, engine.start(job), lane, began, due))
        except Exception as error:
            self._recover(engine, job, error)
        self._starting = None

    def _finish(self) -> None:
        # A query's short batch may end before a long one that another lane began earlier.
        batch = min(self._started, key=lambda batch: batch.due)

        def seconds() -> float:
            now = time.perf_counter()
            taken = now - max(batch.began, self._free_since.get(batch.lane, 0.0))
            self._free_since[batch.lane] = now
            return taken

        try:
            batch.engine.finish(batch.job, batch.rows, seconds)
        except Exception as error:
            self._recover(batch.engine, batch.job, error)
        self._started.remove(batch)

    def _recover(self, engine: Engine, job: Job, error: Exception) -> None:
        with self._on(engine, 0):
            engine.recover(job, error)

    def _on(self, engine: Engine, lane: int) -> "contextlib.AbstractContextManager[object]":
        """Where a batch computes: a GPU's own stream, or the lane's on the CPU."""
        if not engine.cpu_lanes:
            return contextlib.nullcontext()
        import mlx.core as mx

        while len(self._lanes) <= lane:
            self._lanes.append(mx.new_stream(mx.cpu))
        return mx.stream(self._lanes[lane])


DEVICE_THREAD = DeviceThread()
atexit.register(DEVICE_THREAD.stop)
os.register_at_fork(
    before=DEVICE_THREAD.pause,
    after_in_parent=DEVICE_THREAD.resume,
    after_in_child=DEVICE_THREAD.after_fork,
)
