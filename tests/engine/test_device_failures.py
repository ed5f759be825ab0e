"""A GPU that fails, with the CPU in its place: no wrong row, nothing lost, and a device that is lost says so."""

import logging

import mlx.core as mx
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx.device.memory import Memory, Room
from akidb_mlx.engine.batch import Batch
from akidb_mlx.engine.device_threads import DeviceThreads
from akidb_mlx.engine.model_engine import Engine
from akidb_mlx.engine.scheduler import Scheduler
from akidb_mlx.errors import BackendError, InputError
from akidb_mlx.model.encoding import Encoding
from support.waiting import PATIENCE_S

OUT_OF_MEMORY = "[METAL] Command buffer execution failed: Insufficient Memory (00000008)."


class SumModel:
    """Rows of length and sum: what is right is known."""

    dimension = 2

    def __call__(self, batch):
        rows = np.stack([batch.lengths, batch.input_ids.sum(axis=1)], axis=1)
        return mx.array(rows.astype(np.float32))


def expected(texts):
    return [[len(ids), sum(ids)] for ids in texts]


@pytest.fixture
def gpu():
    """An engine that takes its device for a GPU: up to four batches are started before the first is awaited."""
    made = []

    def make(memory=None, cost=None, max_batch_tokens=8, **options):
        threads = DeviceThreads()
        scheduler = Scheduler(max_batch_tokens, 0.02, cost=cost)
        for tokens in (2, 4, 6, 8):
            scheduler.speed.add(tokens, 1e-5 * tokens)
        options = {"survives_fork": True, "threads": threads, "memory": memory, "cost": cost, **options}
        engine = Engine(SumModel(), scheduler, 1_000_000, **options)
        made.append(engine)
        return engine, threads

    yield make
    for engine in made:
        engine.close()


TEXTS = [[i + 1, i + 2] for i in range(40)]


def encode(engine, texts=TEXTS, **options):
    return engine.submit([Encoding(np.array(ids, np.int32)) for ids in texts], **options).result(PATIENCE_S)


def fail_late(monkeypatch, at, of, rows=0.0, error=OUT_OF_MEMORY):
    """MLX on Metal: what batch `of` met is raised at the start of batch `at`; its own rows were never written."""
    real, started = Batch.start, []

    def start(batch):
        started.append(batch)
        if len(started) == at:
            raise RuntimeError(error)
        real(batch)
        if len(started) == of:
            padded, computed = batch._started
            batch._started = padded, mx.full(computed.shape, rows)

    monkeypatch.setattr(Batch, "start", start)
    return started


# ── a wrong row is never given ──


@pytest.mark.parametrize("tokens", [8, 2], ids=["four rows", "one row"])
@pytest.mark.parametrize("rows", [0.0, 7.0], ids=["zeros", "numbers of another batch"])
def test_an_error_that_is_reported_late_spoils_no_row(gpu, monkeypatch, caplog, rows, tokens):
    engine, _ = gpu(max_batch_tokens=tokens)
    started = fail_late(monkeypatch, at=2, of=1, rows=rows)
    assert encode(engine).tolist() == expected(TEXTS)
    assert engine.stats.failed_requests == 0
    assert len(started) > 10


def test_all_that_was_started_is_computed_again(gpu, monkeypatch, caplog):
    engine, _ = gpu()
    fail_late(monkeypatch, at=4, of=1, rows=7.0)
    assert encode(engine).tolist() == expected(TEXTS)


def test_an_error_that_the_stream_keeps_surfaces_before_rows_are_given(gpu, monkeypatch, caplog):
    engine, _ = gpu()
    fail_late(monkeypatch, at=1000, of=1, rows=7.0)
    real, calls = DeviceThreads.surface_errors, []

    def surface(self, *, alone):
        calls.append(alone)
        if len(calls) == 1:
            raise RuntimeError(OUT_OF_MEMORY)
        real(self, alone=alone)

    monkeypatch.setattr(DeviceThreads, "surface_errors", surface)
    assert encode(engine).tolist() == expected(TEXTS)
    assert not calls[0] and calls[-1]  # the last batch has the device for itself


def test_after_a_failure_batches_go_one_at_a_time(gpu, monkeypatch, caplog):
    engine, _ = gpu()
    fail_late(monkeypatch, at=2, of=1)
    in_flight, real = [], Engine.next_batch

    def next_batch(self, taken, now, **options):
        batch = real(self, taken, now, **options)
        if batch is not None:
            in_flight.append(len(taken) + 1)
        return batch

    monkeypatch.setattr(Engine, "next_batch", next_batch)
    assert encode(engine).tolist() == expected(TEXTS)
    assert in_flight[:2] == [1, 2]
    assert in_flight[2:] and set(in_flight[2:]) == {1}
    in_flight.clear()
    texts = [[i + 1, 7] for i in range(400)]
    assert encode(engine, texts).tolist() == expected(texts)
    assert max(in_flight) > 1  # confidence comes back


def test_rows_that_were_not_computed_are_refused(gpu, monkeypatch, caplog):
    engine, _ = gpu()

    def model(batch):
        rows = np.stack([batch.lengths, batch.input_ids.sum(axis=1)], axis=1).astype(np.float32)
        rows[(batch.input_ids == 666).any(axis=1)] = np.inf
        return mx.array(rows)

    engine.model = model
    texts = [[1, 2], [666, 3], [5, 6]]
    errors = {}
    rows = encode(engine, texts, errors=errors)
    assert rows[[0, 2]].tolist() == expected([[1, 2], [5, 6]])
    assert isinstance(errors[1], BackendError) and "all zero" in str(errors[1])


# ── a device that is lost ──


@pytest.fixture
def lost(monkeypatch):
    """From now on everything that MLX is asked on a device thread raises, as after an illegal memory access."""
    switch = []

    def breaks(function):
        def call(*args):
            if switch:
                raise RuntimeError("cudaStreamSynchronize(stream) failed: an illegal memory access was encountered")
            return function(*args)

        return call

    for name in ("synchronize", "async_eval", "eval"):
        monkeypatch.setattr(mx, name, breaks(getattr(mx, name)))
    return switch


def test_a_lost_device_says_so_once_and_answers_nothing(gpu, lost, monkeypatch, caplog):
    engine, threads = gpu()
    other = Engine(SumModel(), Scheduler(8, 0.02), 1000, survives_fork=True, threads=threads)
    assert threads.healthy
    lost.append(True)
    with caplog.at_level(logging.CRITICAL), pytest.raises(BackendError, match="restart the process"):
        encode(engine)
    with pytest.raises(BackendError, match="illegal memory access.*restart the process"):
        encode(engine)
    with pytest.raises(BackendError, match="restart the process"):
        encode(other)
    with pytest.raises(BackendError, match="restart the process"):
        threads.run(lambda: 1).result(PATIENCE_S)
    assert not threads.healthy
    assert sum(record.levelno == logging.CRITICAL for record in caplog.records) == 1
    other.close()


def test_what_waits_when_the_device_is_lost_fails(gpu, lost, monkeypatch, caplog):
    engine, threads = gpu()
    with threads.condition:
        futures = [engine.submit([Encoding(np.array([i, 1], np.int32))]) for i in range(50)]
        lost.append(True)
    for future in futures:
        with pytest.raises(BackendError, match="restart the process"):
            future.result(PATIENCE_S)
    assert engine.scheduler.queued_tokens == 0
    assert sum(record.levelno == logging.CRITICAL for record in caplog.records) == 1


def test_a_device_that_only_kept_an_error_is_not_lost(gpu, monkeypatch, caplog):
    engine, threads = gpu()
    fail_late(monkeypatch, at=2, of=1)
    real, kept = mx.synchronize, [1]

    def synchronize(*args):
        if kept:
            kept.pop()
            raise RuntimeError(OUT_OF_MEMORY)
        real(*args)

    monkeypatch.setattr(mx, "synchronize", synchronize)
    assert encode(engine).tolist() == expected(TEXTS)
    assert threads.healthy and not kept


# ── memory ──


def bytes_of(rows, length):
    return 10 * rows * length


class Machine:
    """Memory whose free bytes a test sets."""

    def __init__(self, free, possible=10_000):
        self.free, self.possible = free, possible

    def __call__(self):
        return Room(self.possible, self.free, "a test's memory")


def test_batches_are_as_large_as_the_free_memory_holds(gpu, caplog):
    machine = Machine(free=10_000)
    engine, _ = gpu(Memory(machine), bytes_of, max_batch_tokens=64)
    sizes = []
    engine.model = lambda batch: (sizes.append(batch.input_ids.size), SumModel()(batch))[1]
    assert encode(engine).tolist() == expected(TEXTS)
    assert max(sizes) == 64
    sizes.clear()
    machine.free = 100  # of which nine tenths are taken
    engine.runtime.memory.room(fresh=True)
    assert encode(engine).tolist() == expected(TEXTS)
    assert max(sizes) <= 9
    machine.free = 10_000
    engine.runtime.memory.room(fresh=True)
    sizes.clear()
    assert encode(engine).tolist() == expected(TEXTS)
    assert max(sizes) == 64
    assert not caplog.records  # none was started in vain


@pytest.mark.parametrize("lanes", [0, 2], ids=["gpu", "cpu"])
def test_a_text_that_never_fits_is_refused_by_name_and_harms_nobody(gpu, lanes):
    engine, _ = gpu(Memory(Machine(free=1000, possible=1000)), bytes_of, cpu_lanes=lanes)
    errors = {}
    texts = [[1, 2], [3] * 100, [5, 6]]
    rows = encode(engine, texts, errors=errors)
    assert rows[[0, 2]].tolist() == expected([[1, 2], [5, 6]])
    assert list(errors) == [1] and isinstance(errors[1], InputError)
    assert "text 1 has 100 tokens" in str(errors[1]) and "a test's memory" in str(errors[1])
    with pytest.raises(InputError, match="text 0 has 100 tokens"):
        encode(engine, [[3] * 100])
    assert encode(engine).tolist() == expected(TEXTS)


def test_a_text_that_does_not_fit_now_may_be_tried_again(gpu):
    machine = Machine(free=500, possible=10_000)
    engine, _ = gpu(Memory(machine), bytes_of)
    with pytest.raises(BackendError, match=r"text 0 \(100 tokens") as caught:
        encode(engine, [[3] * 100])
    assert caught.value.retry_after_s > 0
    assert encode(engine).tolist() == expected(TEXTS)
    machine.free = 10_000
    assert encode(engine, [[3] * 100]).tolist() == expected([[3] * 100])


def test_batches_that_compute_are_counted(gpu):
    """Two cores: a batch that fits alone, but not beside the other, waits for its end."""
    engine, _ = gpu(Memory(Machine(free=1200)), bytes_of, cpu_lanes=2)
    computing, most = [], []

    def model(batch):
        computing.append(batch.input_ids.size * 10)
        most.append(sum(computing))
        rows = SumModel()(batch)
        computing.pop()
        return rows

    engine.model = model
    futures = [engine.submit([Encoding(np.full(60, i + 1, np.int32))]) for i in range(20)]
    assert [future.result(PATIENCE_S).tolist() for future in futures] == [[[60, 60 * (i + 1)]] for i in range(20)]
    assert max(most) <= 1080
    assert engine.runtime.memory.reserved == 0


def test_a_device_out_of_memory_gets_smaller_batches(gpu, monkeypatch, caplog):
    """Estimates that were too low are mended by what happened."""
    engine, _ = gpu(Memory(Machine(free=800)), bytes_of, max_batch_tokens=64)
    sizes, real = [], Batch.start

    def start(batch):
        sizes.append(batch.padded_tokens)
        if batch.padded_tokens > 30:
            raise RuntimeError("[cudaMallocAsync] out of memory")
        real(batch)

    monkeypatch.setattr(Batch, "start", start)
    for _ in range(5):
        assert encode(engine).tolist() == expected(TEXTS)
    sizes.clear()
    assert encode(engine).tolist() == expected(TEXTS)
    assert max(sizes) <= 30


def test_one_text_that_runs_out_of_memory_may_be_tried_again(gpu, monkeypatch, caplog):
    engine, _ = gpu()
    monkeypatch.setattr(Batch, "start", lambda batch: exec(f"raise RuntimeError({OUT_OF_MEMORY!r})"))
    with pytest.raises(BackendError) as caught:
        encode(engine, [[1, 2]])
    assert caught.value.retry_after_s > 0
