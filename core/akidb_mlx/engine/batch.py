"""A batch of one model on a device thread: started, finished, learnt from, and computed again after a failure."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.device.memory import Memory, NoMemoryError
from akidb_mlx.engine.companions import Companions
from akidb_mlx.engine.device_threads import DeviceThreads
from akidb_mlx.engine.request_queue import RequestQueue
from akidb_mlx.engine.requests import BatchPlan, Request, Row
from akidb_mlx.engine.residency import Residence
from akidb_mlx.engine.speed import SpeedMeter
from akidb_mlx.errors import AkiDBMLXError, BackendError, InputError
from akidb_mlx.model.host_rows import RowForm
from akidb_mlx.model.padded_batch import PaddedBatch, pad_batch

if TYPE_CHECKING:
    from akidb_mlx.model.heads.base import Computed
    from akidb_mlx.model.network import Network

__all__ = ["Batch", "Runtime"]

_log = logging.getLogger(__name__)
# How soon to try again where memory is short (seconds).
_MEMORY_RETRY_S = 5.0
# A GPU that ran out of memory although enough was free: from then on a batch counts for this much more, to a limit.
_SURPRISE, _MOST_SURPRISE = 1.5, 8.0
# What MLX says, in lower case, on Metal and CUDA.
_OUT_OF_MEMORY = ("out of memory", "insufficient memory", "unable to allocate", "outofmemory", "memoryallocation")


@dataclass
class Runtime:
    """What the batches of one model share."""

    model: "Network | None"
    queue: RequestQueue
    form: RowForm
    speed: SpeedMeter
    threads: DeviceThreads
    gpu: bool
    plans_shapes: bool = False
    memory: Memory | None = None
    cost: Callable[[int, int], int] | None = None
    companions: Companions | None = None
    residence: Residence | None = None
    cache_limit_mb: int | None = None
    """Freed memory that MLX may keep for reuse after a batch on a GPU; None for as much as it does by itself."""
    surprise: float = 1.0
    """How many times its `cost` a batch is taken to need."""
    shapes: set[tuple[int, int]] = field(default_factory=set)
    """Those that kernels are planned for."""

    def room(self) -> float:
        """Bytes by `cost` that another batch may take now. The caller holds the lock."""
        return math.inf if self.memory is None else self.memory.room() / self.surprise


class Batch:
    """Rows that are computed together. All but `reserve` and `ended` are called on a device thread."""

    def __init__(self, runtime: Runtime, plan: BatchPlan) -> None:
        """Not started yet."""
        self.began = 0.0
        self.urgent, self.padded_tokens, self.cpu = plan.urgent, plan.padded_tokens, not runtime.gpu
        self._runtime, self.plan = runtime, plan
        self.source: object = runtime
        self._size = 0 if runtime.cost is None else int(runtime.surprise * runtime.cost(plan.padded_rows, plan.length))
        self._reserved = False
        self._start_s = 0.0
        self._started: tuple[PaddedBatch, Computed] | None = None

    def reserve(self) -> bool:
        """Count its memory as taken; False where batches that compute have what it needs. The caller holds the lock."""
        memory = self._runtime.memory
        if memory is not None:
            if memory.reserved and self._size > memory.room(self._size):
                return False
            memory.reserve(self._size)
            self._reserved = True
        return True

    def ended(self) -> None:
        """It is answered or failed: its memory is free. The caller holds the lock."""
        self._started = None
        if self._runtime.residence is not None:
            self._runtime.residence.used()
        if self._reserved and self._runtime.memory is not None:
            self._runtime.memory.release(self._size)
        self._reserved = False

    def start(self) -> None:
        """Pad it and hand it to the device; on a GPU without waiting for it.

        Raises:
            NoMemoryError: the free memory does not hold it.
        """
        import mlx.core as mx

        self._check_room()
        plan, model = self.plan, self._runtime.model
        assert model is not None
        began = time.perf_counter()
        padded = pad_batch([row.encoding for row in plan.rows], plan.length, plan.padded_rows)
        with self._stream():
            computed = model(padded)
            if not isinstance(computed, np.ndarray):
                mx.async_eval(computed)
        self._started = padded, computed
        self._start_s = time.perf_counter() - began

    def finish(self, measured: Callable[[float], None] = lambda _: None, *, alone: bool = True) -> None:
        """Wait for it and answer whose rows are complete; `measured` is told for how long (seconds).

        `alone`: no other batch computes behind it.

        Raises:
            Exception: whatever the device reports, of this batch or of another.
        """
        import mlx.core as mx

        plan, queue = self.plan, self._runtime.queue
        assert self._started is not None
        padded, computed = self._started
        began = time.perf_counter()
        if not isinstance(computed, np.ndarray):
            mx.eval(computed)
        waited = time.perf_counter() - began
        if self._runtime.gpu:
            self._runtime.threads.surface_errors(alone=alone)
        arrays = [np.array(part, copy=False) for part in (computed if isinstance(computed, tuple) else (computed,))]
        flags = arrays.pop()[: len(plan.rows)] if self._runtime.form.flagged else None
        rows, finite = self._runtime.form.to_host(arrays, padded, len(plan.rows))
        whole = bool(finite.all())
        if (not whole and _has_infinite_row(arrays[0][: len(plan.rows)])) if flags is None else not flags.all():
            raise RuntimeError("a token's hidden states are all zero: the device did not compute them")
        places: dict[Request, tuple[list[int], list[int]]] = {}
        for position in range(len(plan.rows)) if whole else np.flatnonzero(finite).tolist():
            for request, index in plan.rows[position].owners:
                indices, positions = places.setdefault(request, ([], []))
                indices.append(index)
                positions.append(position)
            self._keep_companions(plan.rows[position], rows[position])
        with self._runtime.threads.condition:
            measured(waited)
            queue.stats.batches += 1
            queue.stats.rows += len(plan.rows)
            queue.stats.row_tokens += sum(map(len, plan.rows))
            queue.stats.padded_tokens += plan.padded_tokens
        queue.answer(places, rows)
        if not whole:
            self._refuse(np.flatnonzero(~finite).tolist())
        if self._runtime.gpu and self._runtime.cache_limit_mb is not None:
            self._runtime.threads.trim_cache(self._runtime.cache_limit_mb)

    def _refuse(self, positions: list[int]) -> None:
        """Tell whose rows are not finite."""
        if not positions:
            return
        model = self._runtime.model
        with self._stream():
            why = "leave it out" if model is None else model.why_not_finite()
        for position in positions:
            for request, index in self.plan.rows[position].owners:
                error = InputError(
                    f"input {request.first_index + index} gives numbers that are not finite (NaN or infinity); {why}"
                ).at(request.first_index + index)
                self._runtime.queue.refuse(request, index, error)

    def _keep_companions(self, row: Row, computed: Any) -> None:
        """What a pass gave beside what was asked for, for whoever asks next."""
        companions = self._runtime.companions
        if companions is not None:
            companions.keep(row.encoding, computed, {head for request, _ in row.owners for head in request.wants})

    def learn(self, seconds: float) -> None:
        """Take note of its time. The caller holds the lock."""
        runtime, shape = self._runtime, (self.plan.padded_rows, self.plan.length)
        if runtime.plans_shapes and shape not in runtime.shapes:  # its first time: most of it is the planning
            runtime.shapes.add(shape)
        else:
            runtime.speed.add(self.padded_tokens, seconds)
            if runtime.gpu:
                runtime.speed.started(self._start_s)

    def recover(self, error: Exception, *, whole: bool) -> None:
        """It failed: compute it again alone, `whole` where the error may be another batch's, else by halves.

        So only the rows that cause an error fail. One part has ended before the next starts.

        Raises:
            BackendError: the device is beyond repair.
        """
        plan, runtime = self.plan, self._runtime
        if runtime.gpu:
            runtime.threads.settle(error)
            if _says_out_of_memory(error):
                runtime.surprise = min(_SURPRISE * runtime.surprise, _MOST_SURPRISE)
        if len(plan.rows) == 1 and isinstance(error, NoMemoryError) and plan.padded_tokens > len(plan.rows[0]):
            whole = True  # once more, without what it was padded by
        if len(plan.rows) == 1 and not whole:
            (row,) = plan.rows
            for request, index in row.owners:
                place = request.first_index + index
                runtime.queue.refuse(request, index, _reason(error, place, len(row)).at(place))
            return
        again = "it again" if whole else "its halves"
        _log.warning("a batch of %d rows failed (%s); trying %s", len(plan.rows), error, again)
        for part in (plan.part(plan.rows),) if whole else plan.halves():
            Batch(runtime, part).run()

    def run(self) -> None:
        """From start to end; a failure is recovered from."""
        try:
            with self._runtime.threads.condition:
                self.reserve()
            self.start()
            self.finish()
        except Exception as error:
            self._end()
            self.recover(error, whole=False)
        finally:
            self._end()

    def fail(self, error: Exception) -> None:
        """Answer with the error."""
        self._runtime.queue.fail([request for row in self.plan.rows for request, _ in row.owners], error)

    def _end(self) -> None:
        with self._runtime.threads.condition:
            self.ended()

    def _check_room(self) -> None:
        memory, threads = self._runtime.memory, self._runtime.threads
        if memory is None:
            return
        own = self._size if self._reserved else 0
        with threads.condition:
            if self._size <= memory.room(self._size - own) + own:
                return
        threads.clear_cache()
        threads.residency.make_room(self._size - own, memory, "for another model's batch")
        with threads.condition:
            free, (possible, limit) = memory.room(fresh=True) + own, memory.possible()
        if self._size > free:
            raise NoMemoryError(self._size, free, possible, limit)

    def _stream(self) -> contextlib.AbstractContextManager[object]:
        """Where it computes: on a GPU, or this thread's core."""
        if not self.cpu:
            return contextlib.nullcontext()
        import mlx.core as mx

        return mx.stream(mx.cpu)


def _has_infinite_row(numbers: NDArray[np.float32]) -> bool:
    flat = numbers.reshape(len(numbers), -1)
    suspects = flat[np.isposinf(flat[:, 0])] if flat.shape[1] else flat[:0]
    return bool(np.isposinf(suspects).all(axis=1).any())


def _says_out_of_memory(error: Exception) -> bool:
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def _reason(error: Exception, index: int, tokens: int) -> AkiDBMLXError:
    """Why a text, by its place in what the user gave, has no row."""
    if isinstance(error, NoMemoryError) and error.size > error.possible:
        return InputError(
            f"text {index} has {tokens} tokens, for which a forward pass takes about {error.size / 1e9:.1f} GB; "
            f"this process can have {error.possible / 1e9:.1f} GB more ({error.limit}). Split it, or set a lower "
            "max_seq_length"
        )
    if isinstance(error, NoMemoryError) or _says_out_of_memory(error):
        return BackendError(
            f"the memory that is free now does not hold text {index} ({tokens} tokens; {error}): try again later, "
            "close other programs, or set a lower max_seq_length",
            _MEMORY_RETRY_S,
        )
    return BackendError(f"the device failed on text {index} ({tokens} tokens): {error}")
