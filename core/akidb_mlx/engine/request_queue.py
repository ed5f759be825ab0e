"""The callers' side of an engine: requests wait here, bounded by tokens, and are answered, refused or failed."""

import copy
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

from akidb_mlx.engine.device_threads import DeviceThreads
from akidb_mlx.engine.requests import Request
from akidb_mlx.engine.scheduler import Scheduler
from akidb_mlx.engine.stats import Stats
from akidb_mlx.errors import AkiDBMLXError, QueueFullError
from akidb_mlx.model.host_rows import RowForm, Rows

__all__ = ["RequestQueue"]


class RequestQueue:
    """The requests of one engine that are not answered yet.

    Documents and queries have `max_queued_tokens` each, so that no ingest keeps a query out.
    """

    def __init__(self, scheduler: Scheduler, max_queued_tokens: int, form: RowForm, threads: DeviceThreads) -> None:
        """Hold nothing yet."""
        self.stats = Stats()
        self.max_queued_tokens = max_queued_tokens
        self.closed = False
        self._scheduler = scheduler
        self._form = form
        self._threads = threads
        self._room: deque[tuple[int, bool, Future[None]]] = deque()

    def add(self, request: Request) -> None:
        """Let a request wait. The caller holds the lock.

        Raises:
            QueueFullError: more than `max_queued_tokens` would wait.
        """
        if not self._has_room(request.waiting_tokens, request.query):
            self.stats.refused_requests += 1
            raise self._full(request.waiting_tokens, request.query)
        self.stats.requests += 1
        self.stats.texts += len(request.encodings)
        self.stats.tokens += request.waiting_tokens
        self._scheduler.add(request)

    def room(self, tokens: int, query: bool) -> "Future[None]":
        """A future that is done once `tokens` more may wait."""
        future: Future[None] = Future()
        with self._threads.condition:
            self._room.append((tokens, query, future))
        future.add_done_callback(self._make_way)
        self.offer_room()
        return future

    def answer(self, places: dict[Request, tuple[list[int], list[int]]], rows: Rows) -> None:
        """Give requests their rows: `places` has (places among a request's texts, positions in `rows`) of each."""
        with self._threads.condition:  # a request's rows may come from two threads
            complete = [
                request
                for request, (indices, positions) in places.items()
                if self._fill(request, indices, rows[positions])
            ]
        for request, (indices, _) in places.items():
            _tell(request, len(indices))
        for request in complete:
            self._give(request)
        self.offer_room()

    def refuse(self, request: Request, index: int, error: AkiDBMLXError) -> None:
        """A text has no row: its request fails, or goes on without it where that is wanted."""
        if request.errors is None:
            self.fail([request], error)
            return
        request.errors[request.first_index + index] = error
        with self._threads.condition:
            complete = self._fill(request, [index], self._form.blank(1))
        _tell(request, 1)
        if complete:
            self._give(request)

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

    def release(self, request: Request) -> None:
        """A request's future is done, whoever did it."""
        with self._threads.condition:
            self._scheduler.done(request)
            if request.future.cancelled():
                self.stats.cancelled_requests += 1
        self.offer_room()

    def offer_room(self) -> None:
        """Tell those who wait for room, in their order; queries do not wait behind documents."""
        if not self._room:  # whoever is about to wait looks again after he stands there
            return
        granted: list[Future[None]] = []
        with self._threads.condition:
            kept: deque[tuple[int, bool, Future[None]]] = deque()
            promised = {True: 0, False: 0}
            for tokens, query, future in self._room:
                if self.closed or future.cancelled():
                    granted.append(future)
                elif self._has_room(promised[query] + tokens, query):
                    promised[query] += tokens
                    granted.append(future)
                else:
                    promised[query] = self.max_queued_tokens + 1  # those behind keep their order
                    kept.append((tokens, query, future))
            self._room = kept
        for future in granted:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _make_way(self, future: "Future[None]") -> None:
        if future.cancelled():
            self.offer_room()

    def forget(self) -> None:
        """In a forked child: what waited belongs to the parent."""
        self._room.clear()
        for request in self._scheduler.drain():
            self._scheduler.done(request)
        self._scheduler.forget()

    def _has_room(self, tokens: int, query: bool) -> bool:
        waiting = self._scheduler.waiting_tokens(query)
        return not waiting or waiting + tokens <= self.max_queued_tokens

    def _full(self, tokens: int, query: bool) -> QueueFullError:
        waiting = self._scheduler.waiting_tokens(query)
        line = self._scheduler.speed.line()
        seconds = max(0.1, waiting * line[1]) if line else 1.0
        return QueueFullError(
            f"{waiting} tokens wait already and {tokens} more would pass max_queued_tokens={self.max_queued_tokens}; "
            f"try again in {seconds:.1f} s, or raise max_queued_tokens",
            round(seconds, 1),
        )

    def _fill(self, request: Request, indices: Sequence[int], rows: Rows) -> bool:
        """Put rows in their places and give their tokens back; True with the last of them."""
        self._scheduler.answered(request, sum(len(request.encodings[index]) for index in indices))
        return request.fill(indices, rows)

    def _give(self, request: Request) -> None:
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
            self._scheduler.done(request)


def _tell(request: Request, texts: int) -> None:
    if request.computed is not None and not request.future.done():
        request.computed(texts)
