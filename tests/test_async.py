"""The async face: the same vectors, a free event loop, cancelling that leaves nothing behind."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import ClosedError, InputError, QueueFullError

REFERENCE = Path(__file__).parent / "reference"
LONG_S = 30.0
TEXTS = ["", "a", "Snow fell through the night.", "Which trees grow in the garden?", "tea 🍵 and trains", "a " * 99]


@pytest.fixture(scope="module")
def tiny():
    with Embedder.load(REFERENCE / "bert-prompts", max_batch_tokens=2000) as embedder:
        yield embedder


@contextmanager
def stalled(embedder):
    """The device, one core of it, waits until `release` is called; gives it, and a semaphore of the batches."""
    engine = embedder._loaded.engine
    model, gate, entered = engine.model, threading.Event(), threading.Semaphore(0)
    lanes, engine.cpu_lanes = engine.cpu_lanes, 1

    def wait(batch):
        entered.release()
        assert gate.wait(LONG_S)
        return model(batch)

    engine.model = wait
    try:
        yield gate.set, entered
    finally:
        gate.set()
        engine.cpu_lanes = lanes
        if engine.model is not None:
            engine.model = model


async def until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def close_to(a, b, tolerance=1e-6):
    assert a.shape == b.shape
    return float(np.abs(a - b).max(initial=0)) <= tolerance


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
async def test_the_vectors_are_those_of_the_sync_face(tiny, method):
    expected = getattr(tiny, method)(TEXTS)
    assert close_to(await getattr(tiny, "a" + method)(TEXTS), expected)
    assert (await getattr(tiny, "a" + method)([])).shape == (0, 16)


async def test_the_options_are_those_of_the_sync_face(tiny, caplog):
    options = {"prompt_name": "query", "truncate_dim": 5, "normalize": False}
    assert close_to(await tiny.aencode(TEXTS, **options), tiny.encode(TEXTS, **options))
    assert close_to(await tiny.aencode(TEXTS, prompt="x "), tiny.encode(TEXTS, prompt="x "))
    assert close_to(await tiny.aencode_query(TEXTS, truncate_dim=3), tiny.encode_query(TEXTS, truncate_dim=3))


async def test_many_parts(tiny):
    texts = [f"{TEXTS[i % 6]} {i % 41}" for i in range(1000)]
    assert close_to(await tiny.aencode(texts), tiny.encode(texts))


async def test_concurrent_calls_are_joined(tiny):
    before = tiny.stats()
    expected = tiny.encode(TEXTS)
    with stalled(tiny) as (release, entered):
        calls = [asyncio.create_task(tiny.aencode([text])) for text in TEXTS * 10]
        await until(lambda: entered.acquire(blocking=False))
        await until(lambda: tiny.stats()["requests"] - before["requests"] == 61)
        release()
        rows = np.concatenate(await asyncio.gather(*calls))
    assert close_to(rows, np.concatenate([expected] * 10))
    # 61 calls; a batch for each of the cores' lanes, twice, and shorter ones where the machine is busy
    assert tiny.stats()["batches"] - before["batches"] <= 15


async def test_the_usage_of_a_call(tiny):
    before = sum(tiny.stats()["query_latency"]["counts"])
    rows, usage = await tiny.aencode_with_usage(["a", "a " * 99], side="query")
    assert sum(tiny.stats()["query_latency"]["counts"]) == before + 1
    assert close_to(rows, tiny.encode_query(["a", "a " * 99]))
    assert usage.tokens == tiny.count_tokens(["a"], prompt="search for: ")[0] + 48
    assert usage.truncated_texts == 1
    with pytest.raises(InputError, match="more than 10 tokens together"):
        await tiny.aencode_with_usage(["a b c d e f g h i j k l"], max_tokens=10)
    with pytest.raises(InputError, match="text 1 has more than 48 tokens"):
        await tiny.aencode_with_usage(["a", "a " * 99], on_overlong="error")


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("texts", ["text", ["a", 5], None, {"a"}, iter(["a"])])
async def test_wrong_types(tiny, texts):
    with pytest.raises(TypeError, match="str"):
        await tiny.aencode(texts)


async def test_one_failing_call_does_not_harm_the_others(tiny):
    good = [tiny.aencode([text]) for text in TEXTS]
    results = await asyncio.gather(tiny.aencode(["a"], prompt_name="none"), *good, return_exceptions=True)
    assert isinstance(results[0], InputError)
    assert close_to(np.concatenate(results[1:]), tiny.encode(TEXTS))


async def test_a_closed_embedder_says_so():
    embedder = Embedder.load(REFERENCE / "bert-prompts", max_batch_tokens=2001)
    embedder.close()
    with pytest.raises(ClosedError):
        await embedder.aencode(["a"])


async def test_closing_wakes_who_waits():
    embedder = Embedder.load(REFERENCE / "bert-prompts", max_batch_tokens=2001)
    with stalled(embedder) as (release, entered):
        running = asyncio.create_task(embedder.aencode(["a"]))
        await until(lambda: entered.acquire(blocking=False))
        waiting = asyncio.create_task(embedder.aencode(["b"]))
        await until(lambda: embedder.stats()["requests"] == 2)
        closing = asyncio.create_task(asyncio.to_thread(embedder.close))
        with pytest.raises(ClosedError):
            await waiting
        release()
        assert (await running).shape == (1, 16)
        await closing


async def test_a_full_queue_refuses_at_once_or_waits_on_request():
    with Embedder.load(REFERENCE / "bert-prompts", max_queued_tokens=50) as embedder:
        with stalled(embedder) as (release, entered):
            running = asyncio.create_task(embedder.aencode(["a " * 40]))
            await until(lambda: entered.acquire(blocking=False))
            with pytest.raises(QueueFullError):
                await embedder.aencode(["a " * 20])
            patient = asyncio.create_task(embedder.aencode_document(["a " * 20], wait=True))
            given_up = asyncio.create_task(embedder.aencode_document(["a " * 30], wait=True))
            await asyncio.sleep(0.05)
            assert not patient.done()
            given_up.cancel()
            release()
            assert (await running).shape == (await patient).shape == (1, 16)
            assert given_up.cancelled()


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_cancelled_call_leaves_the_queue(tiny):
    with stalled(tiny) as (release, entered):
        running = asyncio.create_task(tiny.aencode(["a"]))
        await until(lambda: entered.acquire(blocking=False))
        before = tiny.stats()
        call = asyncio.create_task(tiny.aencode([f"b {i}" for i in range(1000)]))
        await until(lambda: tiny.stats()["requests"] - before["requests"] == 5)  # parts of the call
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert tiny.stats()["queued_tokens"] == before["queued_tokens"] == 3
        assert tiny.stats()["cancelled_requests"] - before["cancelled_requests"] == 5
        release()
        assert (await running).shape == (1, 16)
    assert tiny.stats()["rows"] - before["rows"] == 1
    assert close_to(await tiny.aencode(TEXTS), tiny.encode(TEXTS))


async def test_a_call_that_took_too_long_leaves_the_queue(tiny):
    with stalled(tiny) as (release, _):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tiny.aencode(TEXTS), 0.05)
        assert tiny.stats()["queued_tokens"] == 0
        release()
    assert (await tiny.aencode(TEXTS)).shape == (6, 16)


async def test_one_of_two_equal_calls_is_cancelled(tiny):
    with stalled(tiny) as (release, entered):
        running = asyncio.create_task(tiny.aencode(["a"]))
        await until(lambda: entered.acquire(blocking=False))
        before = tiny.stats()["requests"]
        gone, kept = (asyncio.create_task(tiny.aencode(["b"])) for _ in range(2))
        await until(lambda: tiny.stats()["requests"] - before == 2)
        gone.cancel()
        release()
        assert (await kept).shape == (1, 16)
        await running


# ── event loops ──────────────────────────────────────────────────────────────────────────────────────


def test_successive_event_loops(tiny):
    expected = tiny.encode(TEXTS)
    for _ in range(5):
        assert close_to(asyncio.run(tiny.aencode(TEXTS)), expected)


def test_event_loops_in_several_threads(tiny):
    expected = tiny.encode(TEXTS)

    async def several():
        return await asyncio.gather(*(tiny.aencode(TEXTS) for _ in range(10)))

    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(lambda _: asyncio.run(several()), range(6)):
            assert all(close_to(rows, expected) for rows in results)


def test_a_loop_that_ended_before_the_answer(tiny):
    async def give_up():
        task = asyncio.create_task(tiny.aencode(TEXTS))
        await asyncio.sleep(0.01)
        return task  # asyncio.run cancels it

    with stalled(tiny) as (release, _):
        assert asyncio.run(give_up()).cancelled()
        release()
    assert close_to(asyncio.run(tiny.aencode(TEXTS)), tiny.encode(TEXTS))


async def test_a_sync_call_inside_a_running_loop(tiny):
    rows = tiny.encode(TEXTS)
    assert close_to(await tiny.aencode(TEXTS), rows)


async def longest_block(work):
    """The most CPU time, and the most time, for which the event loop did nothing else beside `work`."""
    stop, cpu_s, wall_s = False, 0.0, 0.0

    async def tick():
        nonlocal cpu_s, wall_s
        while not stop:
            cpu, wall = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0.001)
            cpu_s, wall_s = max(cpu_s, time.thread_time() - cpu), max(wall_s, time.perf_counter() - wall)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    result = await work
    stop = True
    await ticking
    return result, cpu_s, wall_s


@pytest.mark.parametrize(
    "texts",
    [["Snow fell through the night."] * 60_000, ["harbour " * 400] * 2000, ["a" * 1_000_000] * 8],
    ids=["many", "long", "huge"],
)
async def test_a_large_call_leaves_the_event_loop_free(tiny, texts):
    began = time.perf_counter()
    rows, cpu_s, wall_s = await longest_block(tiny.aencode(texts))
    assert rows.shape == (len(texts), 16)
    assert cpu_s < 0.1
    assert wall_s < max(0.1, (time.perf_counter() - began) / 2)  # on a busy machine others have their turn


async def test_a_stalled_device_leaves_the_event_loop_free(tiny):
    with stalled(tiny) as (release, _):
        asyncio.get_running_loop().call_later(0.3, release)
        rows, _, wall_s = await longest_block(tiny.aencode(["a"] * 600))
    assert rows.shape == (600, 16)
    assert wall_s < 0.25
