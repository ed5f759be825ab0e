"""The async methods: the same vectors, a free event loop, cancelling that leaves nothing behind."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder, vectors
from akidb_mlx.errors import ClosedError, InputError, QueueFullError
from support.checkpoints import PROMPTS
from support.comparison import assert_close, close_to
from support.device import model_in_place, stalled, unmeasured
from support.texts import SEVERAL_PARTS
from support.waiting import auntil, beside_a_turning_loop

TEXTS = ["", "a", "Snow fell through the night.", "Which trees grow in the garden?", "tea 🍵 and trains", "a " * 99]


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
async def test_the_vectors_are_those_of_the_sync_face(tiny, method):
    expected = getattr(tiny, method)(TEXTS)
    assert_close(await getattr(tiny, "a" + method)(TEXTS), expected)
    assert (await getattr(tiny, "a" + method)([])).shape == (0, 16)


async def test_the_options_are_those_of_the_sync_face(tiny, caplog):
    options = {"prompt_name": "query", "truncate_dim": 5, "normalize": False}
    assert_close(await tiny.aencode(TEXTS, **options), tiny.encode(TEXTS, **options))
    assert_close(await tiny.aencode(TEXTS, prompt="x "), tiny.encode(TEXTS, prompt="x "))
    assert_close(await tiny.aencode_query(TEXTS, truncate_dim=3), tiny.encode_query(TEXTS, truncate_dim=3))


async def test_many_parts(tiny):
    texts = [f"{TEXTS[i % 6]} {i % 41}" for i in range(SEVERAL_PARTS)]
    assert_close(await tiny.aencode(texts), tiny.encode(texts))


async def test_concurrent_calls_are_joined(tiny):
    before = tiny.stats()
    expected = tiny.encode(TEXTS)
    with unmeasured(tiny), stalled(tiny) as device:
        calls = [asyncio.create_task(tiny.aencode([text])) for text in TEXTS * 10]
        await auntil(lambda: tiny.stats()["requests"] - before["requests"] == 61)
        device.open()
        rows = np.concatenate(await asyncio.gather(*calls))
    assert_close(rows, np.concatenate([expected] * 10))
    # 61 calls; a batch for each of the cores' lanes, and for each length that is not worth padding
    assert tiny.stats()["batches"] - before["batches"] <= 15


async def test_the_usage_of_a_call(tiny):
    before = sum(tiny.stats()["query_latency"]["counts"])
    rows, usage = await tiny.aencode_with_usage(["a", "a " * 99], side="query")
    assert sum(tiny.stats()["query_latency"]["counts"]) == before + 1
    assert_close(rows, tiny.encode_query(["a", "a " * 99]))
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
    assert_close(np.concatenate(results[1:]), tiny.encode(TEXTS))


async def test_a_closed_embedder_says_so():
    embedder = Embedder.load(PROMPTS, max_batch_tokens=2001)
    embedder.close()
    with pytest.raises(ClosedError):
        await embedder.aencode(["a"])


async def test_closing_wakes_who_waits():
    embedder = Embedder.load(PROMPTS, max_batch_tokens=2001)
    with stalled(embedder) as device:
        running = asyncio.create_task(embedder.aencode(["a"]))
        await auntil(lambda: device.batches)
        waiting = asyncio.create_task(embedder.aencode(["b"]))
        await auntil(lambda: embedder.stats()["requests"] == 2)
        closing = asyncio.create_task(asyncio.to_thread(embedder.close))
        with pytest.raises(ClosedError):
            await waiting
        device.open()
        assert (await running).shape == (1, 16)
        await closing


async def test_a_full_queue_refuses_at_once_or_waits_on_request():
    with Embedder.load(PROMPTS, max_queued_tokens=50) as embedder:
        with stalled(embedder) as device:
            running = asyncio.create_task(embedder.aencode(["a " * 40]))
            await auntil(lambda: device.batches)
            with pytest.raises(QueueFullError):
                await embedder.aencode(["a " * 20])
            patient = asyncio.create_task(embedder.aencode_document(["a " * 20], wait=True))
            given_up = asyncio.create_task(embedder.aencode_document(["a " * 30], wait=True))
            await auntil(lambda: embedder.stats()["refused_requests"] == 3)  # those two were at first
            assert not patient.done()
            given_up.cancel()
            device.open()
            assert (await running).shape == (await patient).shape == (1, 16)
            assert given_up.cancelled()


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_cancelled_call_leaves_the_queue(tiny):
    with stalled(tiny) as device:
        running = asyncio.create_task(tiny.aencode(["a"]))
        await auntil(lambda: device.batches)
        before = tiny.stats()
        texts = [f"b {i}" for i in range(SEVERAL_PARTS)]
        waiting = before["queued_tokens"] + sum(tiny.count_tokens(texts))
        call = asyncio.create_task(tiny.aencode(texts))
        await auntil(lambda: tiny.stats()["queued_tokens"] == waiting)  # all parts of the call
        parts = tiny.stats()["requests"] - before["requests"]
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert tiny.stats()["queued_tokens"] == before["queued_tokens"] == 3
        assert tiny.stats()["cancelled_requests"] - before["cancelled_requests"] == parts > 1
        device.open()
        assert (await running).shape == (1, 16)
    assert tiny.stats()["rows"] - before["rows"] == 1
    assert_close(await tiny.aencode(TEXTS), tiny.encode(TEXTS))


async def test_a_call_that_took_too_long_leaves_the_queue(tiny):
    with stalled(tiny) as device:
        call = asyncio.create_task(tiny.aencode(TEXTS))
        await auntil(lambda: tiny.stats()["queued_tokens"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.01)
        assert tiny.stats()["queued_tokens"] == 0
        device.open()
    assert (await tiny.aencode(TEXTS)).shape == (6, 16)


async def test_one_of_two_equal_calls_is_cancelled(tiny):
    with stalled(tiny) as device:
        running = asyncio.create_task(tiny.aencode(["a"]))
        await auntil(lambda: device.batches)
        before = tiny.stats()["requests"]
        gone, kept = (asyncio.create_task(tiny.aencode(["b"])) for _ in range(2))
        await auntil(lambda: tiny.stats()["requests"] - before == 2)
        gone.cancel()
        device.open()
        assert (await kept).shape == (1, 16)
        await running


# ── event loops ──────────────────────────────────────────────────────────────────────────────────────


def test_successive_event_loops(tiny):
    expected = tiny.encode(TEXTS)
    for _ in range(5):
        assert_close(asyncio.run(tiny.aencode(TEXTS)), expected)


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
        await auntil(lambda: tiny.stats()["queued_tokens"])
        return task  # asyncio.run cancels it

    with stalled(tiny) as device:
        assert asyncio.run(give_up()).cancelled()
        device.open()
    assert_close(asyncio.run(tiny.aencode(TEXTS)), tiny.encode(TEXTS))


async def test_a_sync_call_inside_a_running_loop(tiny):
    rows = tiny.encode(TEXTS)
    assert_close(await tiny.aencode(TEXTS), rows)


@pytest.mark.parametrize(
    "texts", [["Snow fell through the night."] * SEVERAL_PARTS, ["a" * 30_000] * 2], ids=["many", "long"]
)
async def test_tokenising_leaves_the_event_loop_free(tiny, monkeypatch, texts):
    tokenizer = tiny._loaded.tokenizer
    monkeypatch.setattr(tokenizer, "tokenize", beside_a_turning_loop(tokenizer.tokenize))
    assert (await tiny.aencode(texts)).shape == (len(texts), 16)


async def test_finishing_many_rows_leaves_the_event_loop_free(tiny, monkeypatch):
    monkeypatch.setattr(vectors, "finish", beside_a_turning_loop(vectors.finish))
    assert (await tiny.aencode(["a"] * SEVERAL_PARTS)).shape == (SEVERAL_PARTS, 16)


async def test_a_stalled_device_leaves_the_event_loop_free(tiny):
    with stalled(tiny) as device:
        call = asyncio.create_task(tiny.aencode(["a"] * SEVERAL_PARTS))
        await auntil(lambda: device.batches)
        assert not call.done()
        device.open()
        assert (await call).shape == (SEVERAL_PARTS, 16)


@pytest.mark.alone
async def test_a_large_call_keeps_the_event_loop_for_moments_only(tiny):
    """In CPU time, the least of three calls, for others use the machine too; all of its work there takes 0.2 s."""
    texts, longest_s = ["Snow fell through the night."] * 60_000, []
    with model_in_place(tiny, lambda batch: mx.zeros((len(batch.input_ids), 16))):
        for _ in range(3):
            longest_s.append(await longest_turn(tiny.aencode(texts)))
    assert min(longest_s) < 0.1


async def longest_turn(work):
    """CPU time that the event loop's thread has no turn for others in while this goes on."""
    longest_s, last = 0.0, time.thread_time()
    call = asyncio.create_task(work)
    while not call.done():
        await asyncio.sleep(0.001)
        now = time.thread_time()
        longest_s, last = max(longest_s, now - last), now
    assert (await call).shape == (60_000, 16)
    return longest_s
