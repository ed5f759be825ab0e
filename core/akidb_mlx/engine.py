"""Requests in, rows out: callers hand in token ids and wait on a future; the device threads compute batches."""

import contextlib
import copy
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.batching import make_batch
from akidb_mlx.device_threads import DEVICE_THREADS, Batch, DeviceThreads
from akidb_mlx.errors import AkiDBMLXError, BackendError, ClosedError, InputError, QueueFullError
from akidb_mlx.scheduler import Job, Request, Scheduler
from akidb_mlx.stats import Stats
from akidb_mlx.tokenizer import TokenIds

if TYPE_CHECKING:
    import mlx.core as mx

    from akidb_mlx.model import EmbeddingModel

__all__ = ["FORKED", "Engine"]

_log = logging.getLogger(__name__)
FORKED = (
    "this process was forked from one that uses the GPU, which a child cannot share; "
    'start it with multiprocessing\'s "spawn", or fork before the first model is loaded'
)
# On a GPU one batch computes and one is ready behind it, or more where they are short: Python's threads take turns
# of 5 ms, and the GPU is not to wait for that.
_GPU_BATCHES = 2
_GPU_MOST_BATCHES = 4
_GPU_READY_S = 0.06


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
        threads: DeviceThreads = DEVICE_THREADS,
    ) -> None:
        """Serve `model`, which was loaded on the first device thread.

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
        self._shapes: set[tuple[int, int]] = set()
        self._room: deque[tuple[int, Future[None]]] = deque()
        self._threads = threads
        self._threads.add(self)

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
        with self._threads.condition:
            self._check_usable()
            waiting = self.scheduler.queued_tokens
            if waiting and waiting + request.tokens > self.max_queued_tokens:
                self.stats.refused_requests += 1
                raise self._queue_full(request.tokens)
            self.stats.requests += 1
            self.stats.texts += len(token_ids)
            self.stats.tokens += request.tokens
            self.scheduler.add(request)
            self._threads.wake()
        request.future.add_done_callback(lambda _: self._release(request))
        return request.future

    def room(self, tokens: int) -> "Future[None]":
        """A future that is done once `tokens` more may be queued."""
        future: Future[None] = Future()
        with self._threads.condition:
            self._check_usable()
            self._room.append((tokens, future))
        self._offer_room()
        return future

    def close(self) -> None:
        """Drop the model, after the batch that is computed now; what still waits fails with ClosedError."""
        with self._threads.condition:
            if self.closed:
                return
            self.closed = True
            fail = self.drain()
            self._threads.remove(self)
        fail(ClosedError("the embedder was closed while this request waited"))
        self._offer_room()

        def drop() -> None:
            self._model = None
            self._threads.clear_cache()

        if self._survives_fork or self._process == os.getpid():
            with contextlib.suppress(ClosedError):  # the process is ending: nothing to give back any more
                self._threads.run(drop).result()

    @property
    def waits(self) -> bool:
        """Whether any row waits. The caller holds the lock, as for the next two."""
        return bool(self.scheduler)

    def next_batch(self, in_flight: Sequence[Batch], now: float, *, last_lane: bool) -> "EngineBatch | None":
        """The next batch for a thread that computes `in_flight`; None where it may take none."""
        if not self.has_room(in_flight, now):
            return None
        job = self.scheduler.next_job(now, last_lane=last_lane)
        return None if job is None else EngineBatch(self, job)

    def drain(self) -> Callable[[Exception], None]:
        """Take out all that waits; gives what fails it."""
        return partial(self.fail, self.scheduler.drain())

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
        """Pad a batch and hand it to the device; on a GPU without waiting for it. On a device thread."""
        import mlx.core as mx

        assert self._model is not None
        token_ids, prompts = [row.token_ids for row in job.rows], [row.prompt_length for row in job.rows]
        batch = make_batch(token_ids, prompts, job.length, job.padded_rows)
        rows = self._model(batch)
        mx.async_eval(rows)
        return rows

    def has_room(self, in_flight: Sequence[Batch | Job], now: float) -> bool:
        """Whether a thread that computes these batches may start another: only a GPU's, and fewer beside queries."""
        if not in_flight:
            return True
        if self.cpu_lanes or self.scheduler.queries_are_about(now):
            return False
        if len(in_flight) < _GPU_BATCHES:
            return True
        expected = sum(self.scheduler.speed.seconds(job.padded_tokens) for job in in_flight)
        return len(in_flight) < _GPU_MOST_BATCHES and 0 < expected < _GPU_READY_S

    def learn(self, job: Job, seconds: float) -> None:
        """Take note of a batch's time. The caller holds the lock."""
        shape = (job.padded_rows, job.length)
        if not self.cpu_lanes and shape not in self._shapes:  # its first time: most of it is the kernels' planning
            self._shapes.add(shape)
        else:
            self.scheduler.speed.add(job.padded_tokens, seconds)

    def finish(self, job: Job, started: "mx.array", measured: Callable[[float], None] = lambda _: None) -> None:
        """Wait for a batch and answer whose rows are complete; `measured` is told for how long. On a device thread."""
        import mlx.core as mx

        began = time.perf_counter()
        mx.eval(started)
        waited = time.perf_counter() - began
        rows = np.array(started, copy=False)[: len(job.rows)]
        finite = np.isfinite(rows).all(axis=1)
        places: dict[Request, tuple[list[int], list[int]]] = {}
        for position, row in enumerate(job.rows):
            if finite[position]:
                for request, index in row.owners:
                    indices, positions = places.setdefault(request, ([], []))
                    indices.append(index)
                    positions.append(position)
        with self._threads.condition:  # a request's rows may come from two threads
            measured(waited)
            self.stats.batches += 1
            self.stats.rows += len(job.rows)
            self.stats.row_tokens += sum(len(row.token_ids) for row in job.rows)
            self.stats.padded_tokens += job.padded_tokens
            complete = [request for request, (indices, of) in places.items() if request.fill(indices, rows[of])]
        for position in np.flatnonzero(~finite).tolist():
            for request, index in job.rows[position].owners:
                self._refuse(request, index, _not_finite(request.first_index + index))
        for request in complete:
            self._answer(request)

    def recover(self, job: Job, error: Exception) -> None:
        """A batch failed: try its halves, so that only the rows that cause it fail. On a device thread."""
        if not self.cpu_lanes:
            self._threads.clear_cache()  # most often the device is out of memory
        if len(job.rows) == 1:
            reason = BackendError(f"the device failed on a text of {job.length} tokens: {error}")
            for request, index in job.rows[0].owners:
                self._refuse(request, index, reason)
            return
        _log.warning("a batch of %d rows failed (%s); trying its halves", len(job.rows), error)
        middle = len(job.rows) // 2
        for rows in (job.rows[:middle], job.rows[middle:]):
            half = Job(rows, max(len(row.token_ids) for row in rows), job.urgent)
            try:
                self.finish(half, self.start(half))
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

    def _refuse(self, request: Request, index: int, error: AkiDBMLXError) -> None:
        """A text has no row: its request fails, or goes on without it where that is wanted."""
        if request.errors is None:
            self.fail([request], error)
            return
        request.errors[request.first_index + index] = error
        with self._threads.condition:
            complete = request.fill([index], np.full((1, self.dimension), np.nan, np.float32))
        if complete:
            self._answer(request)

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
        with self._threads.condition:
            self.scheduler.done(request)

    def _release(self, request: Request) -> None:
        with self._threads.condition:
            self.scheduler.done(request)
            if request.future.cancelled():
                self.stats.cancelled_requests += 1
        self._offer_room()

    def _offer_room(self) -> None:
        granted = []
        with self._threads.condition:
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


class EngineBatch:
    """A batch of one engine, as the device threads take it."""

    def __init__(self, engine: Engine, job: Job) -> None:
        """Not started yet."""
        self.began = 0.0
        self.urgent, self.padded_tokens, self.cpu = job.urgent, job.padded_tokens, bool(engine.cpu_lanes)
        self._engine, self._job = engine, job
        self._rows: mx.array | None = None

    def start(self) -> None:
        """Hand it to the device."""
        with self._stream():
            self._rows = self._engine.start(self._job)

    def finish(self, measured: Callable[[float], None]) -> None:
        """Wait for it and answer; `measured` is told for how long."""
        assert self._rows is not None
        self._engine.finish(self._job, self._rows, measured)

    def recover(self, error: Exception) -> None:
        """Try its halves, so that only the rows that cause it fail."""
        with self._stream():
            self._engine.recover(self._job, error)

    def fail(self, error: Exception) -> None:
        """Answer with the error."""
        self._engine.fail([request for row in self._job.rows for request, _ in row.owners], error)

    def learn(self, seconds: float) -> None:
        """Take note of its time."""
        self._engine.learn(self._job, seconds)

    def _stream(self) -> contextlib.AbstractContextManager[object]:
        """Where it computes: on a GPU, or this thread's core."""
        if not self.cpu:
            return contextlib.nullcontext()
        import mlx.core as mx

        return mx.stream(mx.cpu)


def _not_finite(index: int) -> AkiDBMLXError:
    return InputError(
        f"the vector of text {index} is not finite (NaN or infinity); "
        'the model overflows in this dtype: try dtype="float32"'
    )
