"""Requests in, rows out, with a fake model whose rows are known: isolation, backpressure, death, closing."""

import gc
import logging
import random
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx.engine.batch import Batch
from akidb_mlx.engine.device_threads import DeviceThreads
from akidb_mlx.engine.model_engine import Engine
from akidb_mlx.engine.requests import BatchPlan, Request, Row
from akidb_mlx.engine.scheduler import Scheduler
from akidb_mlx.engine.stats import Histogram, Stats
from akidb_mlx.engine.worker import Worker
from akidb_mlx.errors import BackendError, ClosedError, InputError, QueueFullError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.host_rows import RaggedRows
from support.waiting import PATIENCE_S, until

NOT_FINITE, RAISES, KILLS = 666, 667, 668  # tokens that make the fake model misbehave


class FakeModel:
    """Rows of length, sum, first token and prompt length; batches wait at a gate."""

    dimension = 4

    def why_not_finite(self):
        return "leave it out"

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches = []
        self.most_rows = None
        self.seconds = 0.0

    def __call__(self, batch):
        self.batches.append(batch)
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        time.sleep(self.seconds)
        if (batch.input_ids == KILLS).any():
            raise SystemExit("killed by a test")
        if (batch.input_ids == RAISES).any() or (self.most_rows and len(batch.input_ids) > self.most_rows):
            raise RuntimeError("[malloc] no memory")
        rows = np.stack(
            [batch.lengths, batch.input_ids.sum(axis=1), batch.input_ids[:, 0], batch.prompt_lengths], axis=1
        ).astype(np.float32)
        rows[(batch.input_ids == NOT_FINITE).any(axis=1)] = np.nan
        return mx.array(rows)


class Pieces(RaggedRows):
    """A row of as many numbers as its text has tokens."""

    flagged = False

    def to_host(self, arrays, batch, count):
        rows = self.blank(count)
        finite = np.isfinite(arrays[0][:count]).all(axis=1)
        for place, length in enumerate(batch.lengths[:count].tolist()):
            rows[place] = np.repeat(arrays[0][place, 1], length)  # the sum of its tokens
        return rows, finite


def expected(texts, prompt_length=0):
    return [[len(ids), sum(ids), ids[0], prompt_length] for ids in texts]


def arrays(texts):
    return [np.array(ids, np.int32) for ids in texts]


def submit(engine, texts, prompt_length=0, **options):
    return engine.submit([Encoding(ids, prompt_length) for ids in arrays(texts)], **options)


@pytest.fixture(scope="module")
def shared_thread():
    return DeviceThreads()


@pytest.fixture
def make(shared_thread):
    """Engines that are closed at the end, on one thread but where a test brings its own."""
    engines = []

    def make_engine(max_batch_tokens=64, max_queued_tokens=1_000_000, threads=None, **options):
        scheduler = Scheduler(max_batch_tokens, 0.02)
        options = {"survives_fork": True, **options}
        engine = Engine(FakeModel(), scheduler, max_queued_tokens, threads=threads or shared_thread, **options)
        engines.append((engine, engine.model))
        return engine, engine.model

    yield make_engine
    for engine, model in engines:
        model.gate.set()
        engine.close()


def busy(engine, model):
    """Close the gate and let one batch reach it."""
    model.gate.clear()
    future = submit(engine, [[9, 9, 9]])
    assert model.entered.acquire(timeout=PATIENCE_S)
    return future


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────


def test_rows_come_in_the_order_of_the_texts(make):
    engine, _ = make()
    texts = [[3], [5, 6, 7, 8], [2, 2], [9] * 30, [1, 4]]
    rows = submit(engine, texts).result(PATIENCE_S)
    assert rows.tolist() == expected(texts)
    assert rows.dtype == np.float32


def test_the_prompts_length_reaches_the_model(make):
    engine, _ = make()
    assert submit(engine, [[3, 4]], prompt_length=1).result(PATIENCE_S).tolist() == expected([[3, 4]], 1)


def test_what_waits_is_joined_into_one_batch(make):
    engine, model = make()
    first = busy(engine, model)
    others = [submit(engine, [[i + 1, i + 2]]) for i in range(6)]
    model.gate.set()
    for i, future in enumerate(others):
        assert future.result(PATIENCE_S).tolist() == expected([[i + 1, i + 2]])
    assert first.result(PATIENCE_S).tolist() == expected([[9, 9, 9]])
    assert [len(batch.input_ids) for batch in model.batches] == [1, 6]


def test_equal_texts_of_several_requests_are_computed_once(make):
    engine, model = make()
    first = busy(engine, model)
    others = [submit(engine, [[7, 8], [7, 8]]) for _ in range(5)]
    model.gate.set()
    for future in [first, *others]:
        future.result(PATIENCE_S)
    assert [len(batch.input_ids) for batch in model.batches] == [1, 1]
    rows = [future.result() for future in others]
    rows[0][:] = 0  # each has its own copy
    assert rows[1].tolist() == expected([[7, 8], [7, 8]])


def test_a_query_overtakes_documents(make):
    engine, model = make()
    busy(engine, model)
    done = []
    bulk = submit(engine, [[i + 1] * 40 for i in range(30)])
    bulk.add_done_callback(lambda _: done.append("bulk"))
    query = submit(engine, [[5]], urgent=True)
    query.add_done_callback(lambda _: done.append("query"))
    model.gate.set()
    until(lambda: len(done) == 2)
    assert done == ["query", "bulk"]
    place = next(i for i, batch in enumerate(model.batches) if batch.lengths.tolist() == [1])
    assert place <= 3


def test_models_on_one_thread_take_turns(make):
    engine, model = make()
    other, _ = make()
    first = busy(engine, model)
    bulk = submit(engine, [[i + 1] * 40 for i in range(20)])
    small, batches_before = submit(other, [[3]]), []
    small.add_done_callback(lambda _: batches_before.extend(model.batches))
    model.gate.set()
    until(lambda: batches_before)
    assert len(batches_before) <= 5
    assert len(bulk.result(PATIENCE_S)) == 20 and first.done()


# ── backpressure ─────────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_says_so(make):
    engine, model = make(max_queued_tokens=10)
    first = busy(engine, model)
    second = submit(engine, [[1] * 7])
    with pytest.raises(QueueFullError, match="10 tokens wait already and 1 more .*max_queued_tokens=10.*try again"):
        submit(engine, [[1]])
    try:
        submit(engine, [[1, 1, 1]])
    except QueueFullError as error:
        assert error.retry_after_s > 0
    assert engine.stats.refused_requests == 2
    model.gate.set()
    assert len(second.result(PATIENCE_S)) == len(first.result(PATIENCE_S)) == 1
    assert submit(engine, [[1]]).result(PATIENCE_S).tolist() == expected([[1]])


def test_a_request_beyond_the_limit_is_taken_when_nothing_waits(make):
    engine, _ = make(max_queued_tokens=10)
    assert len(submit(engine, [[1, 2, 3]] * 9).result(PATIENCE_S)) == 9


def test_an_answered_request_leaves_the_queue_before_its_caller_knows(make, monkeypatch):
    engine, _ = make(max_queued_tokens=10)
    release = engine.queue.release

    def late(request):
        time.sleep(0.01)
        release(request)

    monkeypatch.setattr(engine.queue, "release", late)
    for _ in range(20):
        assert len(submit(engine, [[1] * 8]).result(PATIENCE_S)) == 1
        with pytest.raises(InputError):
            submit(engine, [[NOT_FINITE] * 8]).result(PATIENCE_S)


def test_room_is_given_when_enough_has_left(make):
    engine, model = make(max_queued_tokens=10)
    assert engine.room(10).result(PATIENCE_S) is None
    first = busy(engine, model)
    second = submit(engine, [[1] * 7])
    room = engine.room(5)
    assert not room.done()
    model.gate.set()
    room.result(PATIENCE_S)
    assert first.result(PATIENCE_S) is not None and second.result(PATIENCE_S) is not None


def test_room_is_given_when_a_request_is_cancelled(make):
    engine, model = make(max_queued_tokens=10)
    first = busy(engine, model)
    second = submit(engine, [[1] * 7])
    room = engine.room(5)
    second.cancel()
    assert room.result(PATIENCE_S) is None and not first.done()


def test_who_no_longer_waits_for_room_is_in_nobodys_way(make):
    engine, model = make(max_queued_tokens=10)
    busy(engine, model)
    submit(engine, [[1] * 6])  # one more token fits
    gone, small = engine.room(9), engine.room(1)
    gone.cancel()
    assert small.result(PATIENCE_S) is None
    assert engine.room(1).result(PATIENCE_S) is None


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_request_leaves_the_queue_and_costs_nothing(make):
    engine, model = make()
    first = busy(engine, model)
    second = submit(engine, [[1] * 7])
    third = submit(engine, [[2] * 5])
    waiting = engine.scheduler.queued_tokens
    assert second.cancel()
    assert engine.scheduler.queued_tokens == waiting - 7
    model.gate.set()
    assert first.result(PATIENCE_S) is not None and third.result(PATIENCE_S) is not None
    assert [batch.lengths.tolist() for batch in model.batches] == [[3], [5]]
    assert engine.stats.cancelled_requests == 1
    assert engine.scheduler.queued_tokens == 0


def test_a_request_cancelled_on_the_device_harms_nobody(make):
    engine, model = make()
    first = busy(engine, model)
    assert first.cancel()
    model.gate.set()
    assert submit(engine, [[4]]).result(PATIENCE_S).tolist() == expected([[4]])


# ── isolation ────────────────────────────────────────────────────────────────────────────────────────


def test_only_the_guilty_request_of_a_batch_fails(make, caplog):
    engine, model = make(max_batch_tokens=1000)
    first = busy(engine, model)
    texts = [[[i + 1, i + 1], [50 + i]] for i in range(8)]
    texts[5] = [[1], [RAISES, 2], [3]]
    futures = [submit(engine, some) for some in texts]
    model.gate.set()
    with caplog.at_level(logging.WARNING):
        for i, future in enumerate(futures):
            if i == 5:
                with pytest.raises(BackendError, match=r"text 1 \(2 tokens\): \[malloc\] no memory"):
                    future.result(PATIENCE_S)
            else:
                assert future.result(PATIENCE_S).tolist() == expected(texts[i])
    assert first.result(PATIENCE_S) is not None
    assert engine.stats.failed_requests == 1
    assert "trying its halves" in caplog.text
    assert engine.scheduler.queued_tokens == 0


def test_a_batch_too_large_for_memory_is_halved(make):
    engine, model = make(max_batch_tokens=1000)
    model.most_rows = 3
    texts = [[i + 1] * (i + 1) for i in range(20)]
    assert submit(engine, texts).result(PATIENCE_S).tolist() == expected(texts)
    assert engine.stats.failed_requests == 0


def test_a_failing_batch_does_not_disturb_the_one_behind_it(make):
    engine, model = make(max_batch_tokens=8)
    first = busy(engine, model)
    bad = submit(engine, [[RAISES] * 8])
    good = [submit(engine, [[i + 1] * 6]) for i in range(10)]
    model.gate.set()
    for i, future in enumerate(good):
        assert future.result(PATIENCE_S).tolist() == expected([[i + 1] * 6])
    with pytest.raises(BackendError):
        bad.result(PATIENCE_S)
    assert first.result(PATIENCE_S) is not None


def test_a_row_that_is_not_finite_fails_its_request_by_index(make):
    engine, model = make()
    first = busy(engine, model)
    bad = submit(engine, [[1], [2], [NOT_FINITE], [3]], first_index=256)
    good = submit(engine, [[4], [5]])
    model.gate.set()
    with pytest.raises(InputError, match=r"input 258 gives numbers that are not finite"):
        bad.result(PATIENCE_S)
    assert good.result(PATIENCE_S).tolist() == expected([[4], [5]])
    assert first.result(PATIENCE_S) is not None


def test_each_failed_request_has_an_error_of_its_own(make):
    """One error raised in many threads would gather all their tracebacks."""
    engine, model = make()
    busy(engine, model)
    futures = [submit(engine, [[1, 2]]) for _ in range(3)]
    model.gate.set()
    engine.close()
    errors = [error for future in futures if (error := future.exception(PATIENCE_S))]
    assert len({id(error) for error in errors}) == len(errors)


# ── death ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_threads_death_is_told_and_the_next_request_revives_it(make, caplog):
    threads = DeviceThreads()
    engine, model = make(threads=threads)
    assert threads.healthy
    first = busy(engine, model)
    killer = submit(engine, [[KILLS] * 60])
    behind = submit(engine, [[i + 1] * 30 for i in range(9)])
    query = submit(engine, [[3]], urgent=True)
    with caplog.at_level(logging.ERROR):
        model.gate.set()
        for future in (killer, behind):
            with pytest.raises(BackendError, match="device thread ended.*try again"):
                future.result(PATIENCE_S)
    wait([first, query], PATIENCE_S)  # before the killer: answered
    assert not threads.healthy
    assert threads.deaths == 1
    assert not any(worker.batches for worker in threads._workers)
    assert "ended unexpectedly" in caplog.text
    assert engine.scheduler.queued_tokens == 0
    assert submit(engine, [[5, 6]]).result(PATIENCE_S).tolist() == expected([[5, 6]])
    assert threads.healthy


def test_death_at_a_batchs_end_is_told(make, monkeypatch, caplog):
    threads = DeviceThreads()
    engine, _ = make(threads=threads)

    def finish(*_, **__):
        raise SystemExit("killed by a test")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "finish", finish)
        with pytest.raises(BackendError, match="device thread ended"):
            submit(engine, [[1]]).result(PATIENCE_S)
    assert submit(engine, [[5, 6]]).result(PATIENCE_S).tolist() == expected([[5, 6]])


def test_death_while_halving_is_told(make, caplog):
    threads = DeviceThreads()
    engine, model = make(threads=threads, max_batch_tokens=1000)
    first = busy(engine, model)
    futures = [submit(engine, [[RAISES]]), submit(engine, [[KILLS, 1]]), submit(engine, [[1, 2, 3]])]
    model.gate.set()
    for future in futures:
        assert isinstance(future.exception(PATIENCE_S), BackendError) or future.result() is not None
    assert first in wait([first], PATIENCE_S).done


def test_work_that_waits_for_the_thread_survives_its_death(make, caplog):
    threads = DeviceThreads()
    engine, model = make(threads=threads)
    model.gate.clear()
    killer = submit(engine, [[KILLS]])
    assert model.entered.acquire(timeout=PATIENCE_S)
    task = threads.run(lambda: "done")
    model.gate.set()
    with pytest.raises(BackendError):
        killer.result(PATIENCE_S)
    try:
        assert task.result(PATIENCE_S) == "done"
    except BackendError:
        pass  # as good: it does not hang


def test_an_engine_can_be_closed_after_the_threads_death(make, caplog):
    threads = DeviceThreads()
    engine, _ = make(threads=threads)
    with pytest.raises(BackendError):
        submit(engine, [[KILLS]]).result(PATIENCE_S)
    engine.close()


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_runs_on_the_thread_and_its_error_comes_back(shared_thread):
    assert shared_thread.run(lambda: threading.current_thread().name).result(PATIENCE_S) == "akidb-mlx"

    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        shared_thread.run(fail).result(PATIENCE_S)
    assert shared_thread.run(lambda: 5).result(PATIENCE_S) == 5


def test_a_cancelled_task_is_not_run(make, shared_thread):
    engine, model = make()
    busy(engine, model)
    ran = []
    task = shared_thread.run(lambda: ran.append(1))
    assert task.cancel()
    model.gate.set()
    shared_thread.run(lambda: None).result(PATIENCE_S)
    assert not ran


# ── closing ──────────────────────────────────────────────────────────────────────────────────────────


def test_closing_answers_what_is_computed_and_fails_what_waits(make):
    engine, model = make()
    running = busy(engine, model)
    waiting = [submit(engine, [[i + 1] * 60]) for i in range(5)]
    room = engine.room(2_000_000)
    closing = threading.Thread(target=engine.close)
    closing.start()
    for future in waiting:
        with pytest.raises(ClosedError, match="closed while this request waited"):
            future.result(PATIENCE_S)
    room.result(PATIENCE_S)  # who waited for room shall find out
    with pytest.raises(ClosedError, match="load it again"):
        submit(engine, [[1]])
    with pytest.raises(ClosedError):
        engine.room(1)
    model.gate.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert running.result(PATIENCE_S).tolist() == expected([[9, 9, 9]])
    engine.close()


def test_closing_drops_the_model(make):
    engine, model = make()
    submit(engine, [[1]]).result(PATIENCE_S)
    alive = weakref.ref(model.batches[0])
    model.batches.clear()
    engine.close()
    assert engine.model is None
    assert engine not in engine._threads._engines
    gc.collect()
    assert alive() is None


def test_closing_one_engine_leaves_the_others(make):
    engine, _ = make()
    other, _ = make()
    engine.close()
    assert submit(other, [[4]]).result(PATIENCE_S).tolist() == expected([[4]])


# ── a GPU's speed ────────────────────────────────────────────────────────────────────────────────────


def test_the_speed_of_batches_whose_ends_nobody_saw_is_their_share(make, monkeypatch):
    threads = DeviceThreads()
    engine, _ = make(threads=threads)
    learnt = []
    monkeypatch.setattr(Batch, "learn", lambda batch, seconds: learnt.append((batch.padded_tokens, seconds)))
    worker = Worker(0)

    def ended(tokens, waited, in_flight):
        batch = Batch(engine.runtime, BatchPlan([Row(Encoding(np.zeros(tokens, np.int32)), [])], tokens, False))
        batch.began = time.perf_counter()
        worker.batches.extend([batch] * in_flight)
        monkeypatch.setattr(Batch, "finish", lambda batch, measured, alone: measured(waited))
        threads._finish(worker)
        worker.batches.clear()

    ended(30, 0.01, 3)
    assert [tokens for tokens, _ in learnt] == [30]
    began = time.perf_counter()
    ended(10, 0.0, 3)
    ended(20, 0.0, 2)
    assert len(learnt) == 1
    time.sleep(0.05)
    ended(70, 0.04, 2)
    (_, ten), (_, twenty), (_, seventy) = learnt[1:]
    assert seventy == pytest.approx(7 * ten) == pytest.approx(3.5 * twenty)
    assert 0.05 <= ten + twenty + seventy <= time.perf_counter() - began
    ended(5, 0.0, 1)  # the last one: none is behind it
    assert len(learnt) == 5


def test_few_batches_are_on_a_gpu_at_a_time(make):
    engine, _ = make()
    for tokens in (10, 20, 30, 40):
        engine.scheduler.speed.add(tokens, 1e-6 * tokens)
    plan = BatchPlan([Row(Encoding(np.zeros(40, np.int32)), [])], 40, False)

    def taken(in_flight, now, alone=False):
        """Whether a thread that computes this many batches takes another one."""
        in_flight = [Batch(engine.runtime, plan)] * in_flight
        with engine._threads.condition:  # no thread of its own takes it
            engine.scheduler.add(Request([Encoding(np.ones(3, np.int32))], False, 0.0))
            batch = engine.next_batch(in_flight, now, reserved=False, alone=alone)
            engine.drain()
        return batch is not None

    assert [taken(count, 0.0) for count in range(6)] == [True] * 4 + [False] * 2
    assert [taken(count, 0.0, alone=True) for count in range(3)] == [True, False, False]
    engine.scheduler.speed.add(40, 0.1)
    for _ in range(9):
        engine.scheduler.speed.add(40, 0.1)
    assert [taken(count, 0.0) for count in range(4)] == [True, True, False, False]
    now = time.monotonic()
    submit(engine, [[1]], urgent=True).result(PATIENCE_S)
    assert [taken(count, now) for count in range(3)] == [True, False, False]


# ── several cores ────────────────────────────────────────────────────────────────────────────────────


def test_batches_compute_on_as_many_threads_as_there_are_cores(make):
    engine, model = make(threads=DeviceThreads(), cpu_lanes=3)
    model.gate.clear()
    futures = [submit(engine, [[i + 1] * 60]) for i in range(5)]
    for _ in range(3):
        assert model.entered.acquire(timeout=PATIENCE_S)
    assert not model.entered.acquire(timeout=0.1)
    model.gate.set()
    for i, future in enumerate(futures):
        assert future.result(PATIENCE_S).tolist() == expected([[i + 1] * 60])


def test_one_request_is_computed_on_all_cores(make):
    engine, model = make(threads=DeviceThreads(), cpu_lanes=2)
    model.gate.clear()
    future = submit(engine, [[i + 1] * 60 for i in range(5)])
    for _ in range(2):
        assert model.entered.acquire(timeout=PATIENCE_S)
    model.gate.set()
    assert future.result(PATIENCE_S).tolist() == expected([[i + 1] * 60 for i in range(5)])


def test_a_thread_more_is_only_started_where_work_waits(make):
    threads = DeviceThreads()
    engine, _ = make(threads=threads, cpu_lanes=4)
    for _ in range(10):
        submit(engine, [[1]]).result(PATIENCE_S)
        until(threads._all_idle)
    assert len(threads._workers) == 1


class CountingCondition(threading.Condition):
    """Knows which threads sleep; `notify` would wake the first."""

    def __init__(self):
        super().__init__()
        self.asleep = []

    def wait(self, timeout=None):
        name = threading.current_thread().name
        self.asleep.append(name)
        try:
            return super().wait(timeout)
        finally:
            self.asleep.remove(name)


def test_a_model_of_fewer_cores_is_served_while_all_threads_sleep(make):
    threads = DeviceThreads()
    threads.condition = CountingCondition()
    several, model = make(threads=threads, cpu_lanes=2)
    one, _ = make(threads=threads, cpu_lanes=1)

    def first_thread_ends_first(batch):
        rows = model(batch)
        if threading.current_thread().name != "akidb-mlx":
            until(lambda: threads._workers[0].idle)
        return rows

    several.model = first_thread_ends_first
    model.gate.clear()
    futures = [submit(several, [[1] * 60]), submit(several, [[2] * 60])]
    for _ in range(2):
        assert model.entered.acquire(timeout=PATIENCE_S)
    model.gate.set()
    wait(futures, PATIENCE_S)
    until(lambda: threads.condition.asleep == ["akidb-mlx-1", "akidb-mlx"])
    assert submit(one, [[3, 4]]).result(PATIENCE_S).tolist() == expected([[3, 4]])  # the second thread cannot serve it


def test_a_gpus_engine_is_served_by_the_first_thread_alone(make):
    threads = DeviceThreads()
    several, _ = make(threads=threads, cpu_lanes=2)
    gpu, _ = make(threads=threads)
    names = set()
    model = gpu.model
    gpu.model = lambda batch: (names.add(threading.current_thread().name), model(batch))[1]
    futures = [submit(engine, [[i + 1] * 60]) for i in range(20) for engine in (several, gpu)]
    wait(futures, PATIENCE_S)
    assert all(future.done() for future in futures)
    assert names == {"akidb-mlx"}


def test_a_task_has_mlx_for_itself(make):
    threads = DeviceThreads()
    engine, model = make(threads=threads, cpu_lanes=2)
    model.seconds = 0.002
    computing = []

    def count(batch):
        computing.append(1)
        try:
            return model(batch)
        finally:
            computing.pop()

    engine.model = count
    bulk = submit(engine, [[i + 1] * 60 for i in range(60)])
    seen = []
    for _ in range(5):
        seen.append(threads.run(lambda: (len(computing), time.sleep(0.01), len(computing))).result(PATIENCE_S))
    assert len(bulk.result(PATIENCE_S)) == 60
    assert {(before, after) for before, _, after in seen} == {(0, 0)}


def test_the_death_of_one_thread_leaves_the_others_batch(make, caplog):
    threads = DeviceThreads()
    engine, model = make(threads=threads, cpu_lanes=2)
    model.gate.clear()
    futures = [submit(engine, [[KILLS] * 60]), submit(engine, [[7] * 50])]
    for _ in range(2):
        assert model.entered.acquire(timeout=PATIENCE_S)
    model.gate.set()
    with pytest.raises(BackendError, match="device thread ended"):
        futures[0].result(PATIENCE_S)
    assert futures[1].result(PATIENCE_S).tolist() == expected([[7] * 50])
    futures = [submit(engine, [[i + 1] * 60]) for i in range(6)]
    assert [future.result(PATIENCE_S)[0, 2] for future in futures] == [1, 2, 3, 4, 5, 6]


def test_where_another_thread_serves_the_next_request_all_is_well_again(make, caplog):
    threads = DeviceThreads()
    engine, model = make(threads=threads, cpu_lanes=2)

    def kills_the_second_thread(batch):
        rows = model(batch)
        if threading.current_thread().name != "akidb-mlx":
            raise SystemExit("killed by a test")
        return rows

    engine.model = kills_the_second_thread
    model.gate.clear()
    futures = [submit(engine, [[1] * 60]), submit(engine, [[2] * 60])]
    for _ in range(2):
        assert model.entered.acquire(timeout=PATIENCE_S)
    model.gate.set()
    wait(futures, PATIENCE_S)
    until(lambda: threads._workers[0].idle and not threads.healthy)
    assert submit(engine, [[3, 4]]).result(PATIENCE_S).tolist() == expected([[3, 4]])
    assert threads.healthy


# ── the process's end, and forks ─────────────────────────────────────────────────────────────────────


def test_stopping_ends_the_batch_and_fails_the_rest(make):
    threads = DeviceThreads()
    engine, model = make(threads=threads)
    running = busy(engine, model)
    waiting = [submit(engine, [[i + 1] * 60]) for i in range(3)]
    stopping = threading.Thread(target=threads.stop)
    stopping.start()
    until(lambda: threads._stopping)
    model.gate.set()
    stopping.join(PATIENCE_S)
    assert running.result(PATIENCE_S).tolist() == expected([[9, 9, 9]])
    for future in waiting:
        with pytest.raises(ClosedError, match="process is ending"):
            future.result(PATIENCE_S)
    with pytest.raises(ClosedError):
        submit(engine, [[1]])
    with pytest.raises(ClosedError):
        threads.run(lambda: None)
    engine.close()  # is quiet


def test_before_a_fork_the_device_runs_empty(make):
    threads = DeviceThreads()
    engine, model = make(threads=threads)
    model.seconds = 0.01
    bulk = submit(engine, [[i + 1] * 60 for i in range(40)])
    for _ in range(5):
        time.sleep(0.01)
        threads.pause()
        computed = len(model.batches)
        assert not any(worker.batches for worker in threads._workers)
        time.sleep(0.03)
        assert len(model.batches) == computed
        threads.resume()
    assert len(bulk.result(PATIENCE_S)) == 40


def test_a_child_of_a_process_with_a_gpu_is_refused(make):
    engine, _ = make(survives_fork=False)
    engine._process -= 1  # as in a child
    try:
        with pytest.raises(BackendError, match='forked.*"spawn"'):
            submit(engine, [[1]])
        with pytest.raises(BackendError):
            engine.room(1)
    finally:
        engine._process += 1


# ── counters ─────────────────────────────────────────────────────────────────────────────────────────


def test_counters(make):
    engine, model = make()
    first = busy(engine, model)
    documents = submit(engine, [[1] * 5, [2] * 3, [1] * 5])
    model.gate.set()
    wait([first, documents], PATIENCE_S)
    submit(engine, [[7]], urgent=True).result(PATIENCE_S)
    engine._threads.run(lambda: None).result(PATIENCE_S)
    stats = engine.stats
    assert (stats.requests, stats.texts, stats.tokens) == (3, 5, 3 + 13 + 1)
    assert (stats.batches, stats.rows, stats.row_tokens) == (3, 4, 3 + 1 + 8)
    assert stats.padded_tokens == 3 + 1 + 10
    assert stats.padding_share == pytest.approx(1 - 12 / 14)
    assert sum(stats.query_latency.counts) == 1
    assert sum(stats.document_latency.counts) == 2
    assert stats.snapshot()["padding_share"] == pytest.approx(0.1429)


def test_a_histogram_by_hand():
    histogram = Histogram()
    for seconds in (0.0005, 0.001, 0.0011, 29, 31):
        histogram.add(seconds)
    assert histogram.counts == [2, 1, *[0] * 11, 1, 1]
    assert histogram.sum_s == pytest.approx(60.0026)
    assert len(histogram.counts) == len(histogram.bounds_s) + 1


def test_engines_do_not_share_counters():
    one, other = Stats(), Stats()
    one.query_latency.add(1)
    assert sum(other.query_latency.counts) == 0
    assert other.padding_share == 0.0


# ── everything at once ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", [1, 2])
def test_at_random_nothing_is_lost_wrong_or_left_hanging(make, seed, caplog):
    engine, model = make(max_batch_tokens=200, max_queued_tokens=3000)
    caplog.set_level(logging.CRITICAL)
    model.most_rows = 20
    wrong, answered = [], []

    def client(number):
        rng = random.Random(seed * 1000 + number)
        for place in range(200):
            texts = [[rng.randrange(1, 600)] * rng.choice((1, 2, 5, 30)) for _ in range(rng.choice((1, 1, 2, 8, 40)))]
            kind = rng.choice(("fine", "fine", "fine", "cancelled", "not finite", "raises"))
            if kind in ("not finite", "raises"):
                texts[rng.randrange(len(texts))][0] = NOT_FINITE if kind == "not finite" else RAISES
            try:
                future = submit(engine, texts, urgent=rng.random() < 0.3)
            except QueueFullError:
                engine.room(sum(map(len, texts))).result(PATIENCE_S)
                continue
            except ClosedError:
                return
            if kind == "cancelled" and rng.random() < 0.5:
                time.sleep(rng.random() * 0.002)
                future.cancel()
            try:
                rows = future.result(PATIENCE_S).tolist()
                answered.append(place)
                if rows != expected(texts) or kind in ("not finite", "raises"):
                    wrong.append((number, place, kind))
            except CancelledError:
                if kind != "cancelled":
                    wrong.append((number, place, kind, "cancelled"))
            except InputError:
                if kind != "not finite":
                    wrong.append((number, place, kind, "not finite"))
            except BackendError as error:
                if kind != "raises":
                    wrong.append((number, place, kind, str(error)))
            except ClosedError:
                if not engine.closed:
                    wrong.append((number, place, kind, "closed"))
                return

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        if seed == 2:
            until(lambda: len(answered) > 100)
            engine.close()
        for one in clients:
            one.result(PATIENCE_S)
    assert not wrong
    assert engine.scheduler.queued_tokens == 0
    assert not engine.scheduler


# ── room for queries beside documents ──


def test_documents_never_keep_a_query_out(make):
    engine, model = make(max_queued_tokens=10)
    busy(engine, model)
    submit(engine, [[1] * 7])
    with pytest.raises(QueueFullError):
        submit(engine, [[2] * 5])
    queries = [submit(engine, [[3] * 5], urgent=True), submit(engine, [[4] * 5], query=True)]
    with pytest.raises(QueueFullError, match="10 tokens wait already and 1 more"):
        submit(engine, [[5]], urgent=True)
    model.gate.set()
    assert [query.result(PATIENCE_S)[0, 2] for query in queries] == [3, 4]


def test_queries_do_not_wait_for_room_behind_documents(make):
    engine, model = make(max_queued_tokens=10)
    busy(engine, model)
    submit(engine, [[1] * 7])
    documents, query = engine.room(5), engine.room(5, query=True)
    assert query.result(PATIENCE_S) is None
    assert not documents.done()
    model.gate.set()
    assert documents.result(PATIENCE_S) is None


def test_those_who_wait_for_room_keep_their_order(make):
    engine, model = make(max_queued_tokens=10)
    busy(engine, model)
    submit(engine, [[1] * 6])  # one more token fits
    large, small = engine.room(2), engine.room(1)
    assert not large.done() and not small.done()
    model.gate.set()
    assert large.result(PATIENCE_S) is small.result(PATIENCE_S) is None


def test_tokens_are_given_back_as_rows_are_answered(make):
    """One large request: its first rows make room for others long before its last."""
    engine, model = make(max_batch_tokens=8, max_queued_tokens=30)
    batches = threading.Semaphore(0)
    engine.model = lambda batch: (batches.acquire(timeout=PATIENCE_S), model(batch))[1]
    bulk = submit(engine, [[i + 1] * 5 for i in range(6)])
    with pytest.raises(QueueFullError):
        submit(engine, [[9] * 5])
    room = engine.room(5)
    batches.release()
    assert room.result(PATIENCE_S) is None
    assert not bulk.done()
    batches.release(5)
    assert bulk.result(PATIENCE_S).shape == (6, 4)
    assert engine.scheduler.queued_tokens == 0


@pytest.mark.parametrize(("plans_shapes", "learnt"), [(False, 3), (True, 2)])
def test_the_speed_is_learnt_from_each_batch_but_where_shapes_are_planned(make, monkeypatch, plans_shapes, learnt):
    engine, _ = make(plans_shapes=plans_shapes)
    times = []
    monkeypatch.setattr(engine.scheduler.speed, "add", lambda tokens, seconds: times.append(tokens))
    for _ in range(3):
        submit(engine, [[1, 2, 3]]).result(PATIENCE_S)
    assert times == [3] * learnt


# ── rows of another form ─────────────────────────────────────────────────────────────────────────────


def test_rows_that_have_a_size_of_their_own(make):
    engine, _ = make(max_batch_tokens=8, form=Pieces())
    texts = [[1], [2, 3], [1], [4, 5, 6], [2, 3], [7] * 7]
    rows = submit(engine, texts).result(PATIENCE_S)
    assert rows.dtype == object and rows.shape == (6,)
    assert [row.tolist() for row in rows] == [[sum(ids)] * len(ids) for ids in texts]


def test_of_those_rows_a_bad_one_is_none(make):
    engine, _ = make(form=Pieces())
    errors = {10: InputError("refused before")}
    rows = submit(engine, [[1], [NOT_FINITE, 2], [3, 3], [RAISES]], first_index=10, errors=errors).result(PATIENCE_S)
    assert [None if row is None else row.tolist() for row in rows] == [None, None, [6, 6], None]
    assert sorted(errors) == [10, 11, 13] and "not finite" in str(errors[11])
    only = submit(engine, [[1]], errors={0: InputError("refused before")}).result(PATIENCE_S)
    assert only.tolist() == [None]


def test_what_is_flagged_as_not_computed_is_computed_again(make):
    form = Pieces()
    form.flagged = True
    engine, model = make(max_batch_tokens=8, form=form)
    calls = []

    def forgets_once(batch):
        calls.append(batch)
        return model(batch), mx.array(len(calls) > 1) | (mx.arange(len(batch.lengths)) > 0)

    engine.model = forgets_once
    texts = [[1, 2], [3, 4], [5, 6]]
    rows = submit(engine, texts).result(PATIENCE_S)
    assert [row.tolist() for row in rows] == [[sum(ids)] * 2 for ids in texts]
    assert len(calls) > 2
    engine.model = lambda batch: (model(batch), mx.zeros(len(batch.lengths), mx.bool_))
    with pytest.raises(BackendError, match="the device did not compute them"):
        submit(engine, [[7]]).result(PATIENCE_S)
    engine.model = model


def test_another_models_batches_are_no_reason_to_wait_for_more(make):
    """A device that gathers has a model's documents wait for a fuller batch only while its own batches compute."""
    engine, _ = make(cpu_lanes=0, plans_shapes=True)
    engine.scheduler = Scheduler(64, 0.02, gathers=True)
    other = SimpleNamespace(source=object(), padded_tokens=64, urgent=False)
    own = SimpleNamespace(source=engine.runtime, padded_tokens=64, urgent=False)
    asked = {"reserved": False, "alone": False}
    with engine._threads.condition:  # no thread of its own takes it
        engine.scheduler.add(Request([Encoding(np.arange(4, dtype=np.int32))], False, 0.0))
        assert engine.next_batch([own], 100.0, **asked) is None
        batch = engine.next_batch([other], 100.0, **asked)
        assert batch is not None
        batch.ended()
