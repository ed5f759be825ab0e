"""Requests in, rows out: callers hand in encodings and wait on a future; the device threads compute batches."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from akidb_mlx.device.choice import FORKED
from akidb_mlx.device.memory import Memory
from akidb_mlx.engine import worker
from akidb_mlx.engine.batch import Batch, Runtime
from akidb_mlx.engine.companions import Companions
from akidb_mlx.engine.device_threads import DEVICE_THREADS, DeviceThreads
from akidb_mlx.engine.request_queue import RequestQueue
from akidb_mlx.engine.requests import Request
from akidb_mlx.engine.residency import Keep, Residence
from akidb_mlx.engine.scheduler import Scheduler
from akidb_mlx.errors import AkiDBMLXError, BackendError, ClosedError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.host_rows import DenseRows, RowForm, Rows

if TYPE_CHECKING:
    from akidb_mlx.model.network import Network

__all__ = ["Engine"]

# A GPU has one batch that computes and one queued, up to four while they are short: another Python thread may hold the
# interpreter for 5 ms.
_GPU_BATCHES = 2
_GPU_MOST_BATCHES = 4
_GPU_READY_S = 0.06
# Where batches are gathered: the share of a full one that documents fill to follow none, one, two … that compute.
_LEAST_SHARES = (0.0, 0.25, 0.75)


class Engine:
    """The requests of one loaded model, and the batches that the device threads compute of them."""

    def __init__(
        self,
        model: "Network",
        scheduler: Scheduler,
        max_queued_tokens: int,
        *,
        survives_fork: bool,
        cpu_lanes: int = 0,
        plans_shapes: bool = False,
        memory: Memory | None = None,
        cost: Callable[[int, int], int] | None = None,
        form: RowForm | None = None,
        companions: Companions | None = None,
        residence: Residence | None = None,
        cache_limit_mb: int | None = None,
        threads: DeviceThreads = DEVICE_THREADS,
    ) -> None:
        """Serve `model`, which was loaded on the first device thread.

        `cpu_lanes` batches compute at the same time, each on a core; 0 stands for a GPU. With `memory` a batch starts
        only where its `cost(rows, length)` in bytes is free. `form` says what the model's rows are; None: dense ones.
        `companions`: its rows have several heads' numbers, and what nobody asked for is kept there.
        `residence`: how its weights, which are here, are loaded again once they were freed; None: they stay.
        `cache_limit_mb`: what MLX may keep of freed GPU memory.
        """
        self.scheduler = scheduler
        self.form = form or DenseRows(model.dimension)
        self.companions = companions
        self.cpu_lanes = cpu_lanes
        self.gathers = plans_shapes
        self.queue = RequestQueue(scheduler, max_queued_tokens, self.form, threads)
        self.stats = self.queue.stats
        self.runtime = Runtime(
            model,
            self.queue,
            self.form,
            scheduler.speed,
            threads,
            not cpu_lanes,
            plans_shapes,
            memory,
            cost,
            companions,
            residence,
            cache_limit_mb,
        )
        self._threads = threads
        scheduler.planned = self.runtime.shapes
        scheduler.clock = threads.query_clock
        self._survives_fork = survives_fork
        self._process = os.getpid()
        self.residence = residence
        if residence is not None:
            with threads.condition:
                residence.memory.hold(residence.size)
        self._threads.add(self)

    @property
    def model(self) -> "Network | None":
        """What computes its batches; None while its weights are freed, and once it is closed."""
        return self.runtime.model

    @model.setter
    def model(self, model: "Network | None") -> None:
        self.runtime.model = model

    @property
    def live_model(self) -> "Network":
        """The same, where it is known to be there."""
        assert self.runtime.model is not None
        return self.runtime.model

    def place(self, network: "Network | None") -> None:
        """Compute with this from now on; None where its weights are freed. The caller holds the lock."""
        self.runtime.model = network
        if network is not None:
            self.runtime.form = network.head
        elif self.companions is not None:
            self.companions.forget()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While a call is under way, even where no row of it waits; weights that are freed are loaded meanwhile."""
        residence = self.residence
        if residence is None:
            yield
            return
        with self._threads.condition:
            residence.calls += 1
            if self.model is None and not self.closed:
                residence.wanted = True
                self._threads.wake()
        try:
            yield
        finally:
            with self._threads.condition:
                residence.calls = max(0, residence.calls - 1)  # in a forked child nobody else's count
                residence.used()
                if residence.keep_s < math.inf:
                    self._threads.condition.notify_all()  # the first thread looks at the time

    def keep_for(self, keeper: object, keep: Keep | None) -> None:
        """For how long its weights stay for `keeper`, None: not for him."""
        if self.residence is not None:
            with self._threads.condition:
                self.residence.keeps.pop(keeper, None)
                if keep is not None:
                    self.residence.keeps[keeper] = keep
                self._threads.condition.notify_all()

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self.queue.closed

    def submit(
        self,
        encodings: Sequence[Encoding],
        *,
        urgent: bool = False,
        query: bool = False,
        first_index: int = 0,
        errors: dict[int, AkiDBMLXError] | None = None,
        wants: Collection[str] = (),
        computed: Callable[[int], None] | None = None,
    ) -> "Future[Rows]":
        """Queue some texts; the future gives their rows in order.

        `urgent` ones overtake the others; a `query`, urgent or not, finds room beside documents.

        With `errors`, texts that are in there already (by place from `first_index`) are skipped, those that
        fail are put there, and their rows are blank (NaN); without, the first failure is the future's.

        `wants`: the heads whose rows are asked for, where the model has several.

        `computed` is told, on a device thread, how many texts more are done; never of a cancelled request's.

        Raises:
            QueueFullError: more than `max_queued_tokens` would wait; see `room`.
            ClosedError: after `close`.
            BackendError: in a forked child of a process that uses a GPU; after the device broke.
        """
        known = self.companions.take(encodings, wants) if self.companions is not None else {}
        request = Request(
            encodings, urgent, time.monotonic(), first_index, errors, query or urgent, wants, known, computed
        )
        if not request.missing:
            rows = self.form.blank(len(encodings)) if request.rows is None else request.rows
            self.stats.companion_rows += len(known)
            request.future.set_result(rows)
            if computed is not None:
                computed(len(encodings))
            return request.future
        with self._threads.condition:
            self._check_usable()
            self.queue.add(request)
            self.stats.companion_rows += len(known)
            if computed is not None and request.missing < len(encodings):
                computed(len(encodings) - request.missing)
            self._threads.wake()
        request.future.add_done_callback(lambda _: self.queue.release(request))
        return request.future

    def room(self, tokens: int, *, query: bool = False) -> "Future[None]":
        """A future that is done once `tokens` more may be queued, of queries or of documents."""
        with self._threads.condition:
            self._check_usable()
        return self.queue.room(tokens, query)

    def close(self) -> None:
        """Drop the model, after the batch that is computed now; what still waits fails with ClosedError."""
        with self._threads.condition:
            if self.closed:
                return
            self.queue.closed = True
            fail = self.drain()
            self._threads.remove(self)
            self.scheduler.clock.forget(id(self.scheduler))
        fail(ClosedError("the model was closed while this request waited"))
        self.queue.offer_room()

        def drop() -> None:
            with self._threads.condition:
                if self.model is not None and self.residence is not None:
                    self.residence.memory.let_go(self.residence.size)
                self.model = None
            self._threads.clear_cache()

        if self._survives_fork or self._process == os.getpid():
            # The process is ending, or the GPU is lost: nothing to give back any more.
            with contextlib.suppress(ClosedError, BackendError):
                self._threads.run(drop).result()

    def _check_usable(self) -> None:
        if self.closed:
            raise ClosedError("the model is closed; load it again")
        if self._process != os.getpid() and not self._survives_fork:
            raise BackendError(FORKED)
        self._threads.check_usable()

    @property
    def waits(self) -> bool:
        """Whether any row waits that can be computed now. The caller holds the lock, as for the next three."""
        return self.model is not None and bool(self.scheduler)

    @property
    def rows_wait(self) -> bool:
        """Whether any row waits, also for the weights."""
        return bool(self.scheduler)

    def next_batch(self, in_flight: Sequence[worker.Batch], now: float, *, reserved: bool, alone: bool) -> Batch | None:
        """The next batch for a thread that computes `in_flight`; None where it may take none."""
        if in_flight and (alone or not self._may_run_ahead(in_flight, now)):
            return None
        self.scheduler.room = self.runtime.room()
        own = sum(batch.source is self.runtime for batch in in_flight)  # another model's are no reason to wait
        least = _LEAST_SHARES[min(own, len(_LEAST_SHARES) - 1)] if self.gathers else 0.0
        plan = self.scheduler.next_plan(now, reserved=reserved, least=least)
        if plan is None:
            return None
        batch = Batch(self.runtime, plan)
        if batch.reserve():
            return batch
        self.scheduler.put_back(plan)  # until batches that compute have ended
        return None

    def drain(self) -> Callable[[Exception], None]:
        """Take out all that waits; gives what fails it."""
        return partial(self.queue.fail, self.scheduler.drain())

    def after_fork(self) -> None:
        """In a forked child: what waited belongs to the parent."""
        self.queue.forget()
        if self.companions is not None:
            self.companions.forget()
        if self.runtime.memory is not None:
            self.runtime.memory.forget()
        if not self._survives_fork:
            self.residence = self.runtime.residence = None  # what the GPU holds is the parent's to free
        elif self.residence is not None:
            self.residence.calls, self.residence.wanted = 0, False

    def _may_run_ahead(self, in_flight: Sequence[worker.Batch], now: float) -> bool:
        """Whether a thread may start another batch behind those: only a GPU's, and none beside queries."""
        if self.cpu_lanes or self.scheduler.queries_are_about(now):
            return False
        if len(in_flight) < _GPU_BATCHES:
            return True
        expected = sum(self.scheduler.speed.seconds(batch.padded_tokens) for batch in in_flight)
        return len(in_flight) < _GPU_MOST_BATCHES and 0 < expected < _GPU_READY_S
