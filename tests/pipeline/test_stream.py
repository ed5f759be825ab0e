"""encode_stream and aencode_stream: any iterable in order and in bounded memory, stopping whenever one likes."""

import asyncio
import itertools

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import ClosedError, InputError
from support.checkpoints import PROMPTS
from support.comparison import assert_close
from support.device import model_in_place, stalled
from support.waiting import PATIENCE_S, auntil, until

TEXTS = [f"{text} {i}" for i in range(40) for text in ("", "a", "Snow fell through the night.", "tea 🍵", "a " * 60)]


@pytest.fixture(scope="module")
def expected(tiny):
    return tiny.encode(TEXTS)


class Source:
    """An iterable that knows how far it was read and whether it was closed."""

    def __init__(self, texts):
        self.texts, self.read, self.closed = texts, 0, False

    def __iter__(self):
        try:
            for text in self.texts:
                self.read += 1
                yield text
        finally:
            self.closed = True

    async def again(self):
        for text in self:
            await asyncio.sleep(0)
            yield text


# ── sync ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 200, 1000])
def test_chunks_in_order(tiny, expected, chunk_size):
    chunks = list(tiny.encode_stream(Source(TEXTS), chunk_size))
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    assert 0 < len(chunks[-1]) <= chunk_size
    assert all(chunk.dtype == np.float32 for chunk in chunks)
    assert_close(np.concatenate(chunks), expected)


@pytest.mark.parametrize("kind", [list, iter, tuple, lambda texts: (text for text in texts)])
def test_any_iterable(tiny, expected, kind):
    assert_close(np.concatenate(list(tiny.encode_stream(kind(TEXTS)))), expected)


def test_no_texts(tiny):
    assert list(tiny.encode_stream([])) == []


def test_options(tiny, caplog):
    (rows,) = tiny.encode_stream(TEXTS, prompt_name="query", truncate_dim=4, normalize=False)
    assert_close(rows, tiny.encode(TEXTS, prompt_name="query", truncate_dim=4, normalize=False))
    (rows,) = tiny.encode_stream(TEXTS, side="query")
    assert_close(rows, tiny.encode_query(TEXTS))
    (rows,) = tiny.encode_stream(TEXTS, side="document")
    assert_close(rows, tiny.encode_document(TEXTS))
    (rows,) = tiny.encode_stream(TEXTS, prompt="x ")
    assert_close(rows, tiny.encode(TEXTS, prompt="x "))
    with pytest.raises(InputError, match="not both"):
        tiny.encode_stream(TEXTS, side="query", prompt="x")
    with pytest.raises(InputError, match="not both"):
        tiny.encode_stream(TEXTS, side="query", prompt_name="document")


def test_an_endless_source_is_read_only_a_few_chunks_ahead(tiny):
    source = Source(f"a {i}" for i in itertools.count())
    stream = tiny.encode_stream(source, 10)
    assert source.read == 0  # nothing happens before the first chunk is wanted
    for taken in range(1, 50):
        assert next(stream).shape == (10, 16)
        assert source.read <= 10 * (taken + 3)
    stream.close()
    assert source.closed
    assert tiny.stats()["queued_tokens"] == 0


def test_stopping_early_takes_what_is_queued_out(tiny):
    with stalled(tiny, lambda batch: batch.lengths.max() == 48) as device:

        def texts():
            yield from ["a"] * 20
            until(lambda: device.batches)  # the long ones would go first
            yield from ["a " * 60] * 100

        stream = tiny.encode_stream(texts(), 20)
        assert next(stream).shape == (20, 16)
        assert tiny.stats()["queued_tokens"] == 2 * 20 * 48
        stream.close()
        assert tiny.stats()["queued_tokens"] == 0


def test_a_broken_loop_stops_the_source(tiny):
    source = Source(f"a {i}" for i in itertools.count())
    for _ in tiny.encode_stream(source, 5):
        break
    assert source.closed and source.read <= 20


def test_a_full_queue_is_waited_for():
    with Embedder.load(PROMPTS, max_queued_tokens=60) as embedder:
        chunks = list(embedder.encode_stream(TEXTS, 7))
        assert_close(np.concatenate(chunks), embedder.encode(TEXTS))
        assert embedder.stats()["queued_tokens"] == 0


def test_memory_is_bounded_by_characters_too(tiny, monkeypatch):
    from akidb_mlx.pipeline import text_pipeline as module

    monkeypatch.setattr(module, "_LEAST_CHUNK_CHARACTERS", 1000)
    monkeypatch.setattr(module, "_MOST_CHUNK_CHARACTERS", 1000)
    source = Source(["a" * 400] * 30)
    chunks = [len(chunk) for chunk in tiny.encode_stream(source, 10)]
    assert chunks == [3] * 10


def test_an_error_of_the_source_comes_through(tiny):
    def source():
        yield from ["a"] * 25
        raise OSError("disk gone")

    stream = tiny.encode_stream(source(), 10)
    with pytest.raises(OSError, match="disk gone"):
        list(stream)
    assert tiny.stats()["queued_tokens"] == 0


@pytest.mark.parametrize("texts", ["text", b"text"])
def test_a_bare_str_is_a_mistake(tiny, texts):
    with pytest.raises(TypeError, match="str"):
        tiny.encode_stream(texts)


@pytest.mark.parametrize("texts", [None, 5])
def test_what_cannot_be_iterated(tiny, texts):
    with pytest.raises(TypeError):
        tiny.encode_stream(texts)


def test_a_wrong_item_is_named_by_its_place(tiny):
    with pytest.raises(TypeError, match="item 1234 is a NoneType"):
        list(tiny.encode_stream(itertools.chain(["a"] * 1234, [None]), 100))
    assert tiny.stats()["queued_tokens"] == 0


@pytest.mark.parametrize(("size", "error"), [(0, InputError), (-1, InputError), (1.5, TypeError), (True, TypeError)])
def test_a_wrong_chunk_size(tiny, size, error):
    with pytest.raises(error, match="chunk_size"):
        tiny.encode_stream(TEXTS, size)
    with pytest.raises(error, match="chunk_size"):
        tiny.aencode_stream(TEXTS, size)


def test_a_text_too_long_ends_the_stream_or_gives_a_row_of_nan():
    texts = ["a", "a " * 60, "b", "a " * 61, "c"]
    with Embedder.load(PROMPTS, on_overlong="error") as embedder:
        with pytest.raises(InputError, match="text 1 has more than 48 tokens"):
            list(embedder.encode_stream(texts, 2))
        rejected = []
        rows = np.concatenate(list(embedder.encode_stream(texts, 2, on_error=lambda *said: rejected.append(said))))
        assert [place for place, _ in rejected] == [1, 3]
        assert all(isinstance(error, InputError) for _, error in rejected)
        assert np.isnan(rows[[1, 3]]).all()
        assert_close(rows[[0, 2, 4]], embedder.encode(["a", "b", "c"]))
        only = list(embedder.encode_stream(["a " * 60], on_error=lambda *_: None))
        assert np.isnan(only[0]).all() and only[0].shape == (1, 16)


def test_a_row_that_the_device_cannot_compute_is_told(tiny):
    model = tiny._loaded.engine.model

    def fails(batch):
        if (batch.lengths == 5).any():
            raise RuntimeError("[malloc] no memory")
        return model(batch)

    texts = [f"{'a ' * i}" for i in range(12)]
    place = tiny.count_tokens(texts).index(5)
    rejected = []
    with model_in_place(tiny, fails):
        rows = np.concatenate(list(tiny.encode_stream(texts, 5, on_error=lambda *said: rejected.append(said))))
    ((rejected_place, error),) = rejected
    assert rejected_place == place and "no memory" in str(error)
    assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == [place]
    others = [i for i in range(12) if i != place]
    assert_close(rows[others], tiny.encode([texts[i] for i in others]))


def test_closing_midway():
    embedder = Embedder.load(PROMPTS, max_batch_tokens=2003)
    stream = embedder.encode_stream(Source(TEXTS), 5)
    next(stream)
    embedder.close()
    with pytest.raises(ClosedError):
        list(stream)


def test_two_streams_side_by_side(tiny, expected):
    one, other = tiny.encode_stream(TEXTS, 30), tiny.encode_stream(TEXTS[::-1], 20)
    rows = [list(part) for part in zip(*zip(one, other, strict=False), strict=True)]
    assert_close(np.concatenate(rows[0])[:140], expected[:140])
    assert_close(np.concatenate(rows[1])[:140], expected[::-1][:140])
    other.close()


# ── async ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunk_size", [7, 200])
@pytest.mark.parametrize("kind", ["list", "iterator", "async"])
async def test_async_chunks_in_order(tiny, expected, chunk_size, kind):
    source = Source(TEXTS)
    texts = {"list": TEXTS, "iterator": source, "async": source.again()}[kind]
    chunks = [chunk async for chunk in tiny.aencode_stream(texts, chunk_size)]
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    assert_close(np.concatenate(chunks), expected)


async def test_async_options(tiny):
    (rows,) = [chunk async for chunk in tiny.aencode_stream(TEXTS, side="query")]
    assert_close(rows, tiny.encode_query(TEXTS))


async def test_an_endless_async_source_is_read_only_a_few_chunks_ahead(tiny):
    source = Source(f"a {i}" for i in itertools.count())
    stream = tiny.aencode_stream(source.again(), 10)
    for taken in range(1, 20):
        assert (await anext(stream)).shape == (10, 16)
        assert source.read <= 10 * (taken + 3)
    await stream.aclose()
    assert tiny.stats()["queued_tokens"] == 0


async def test_a_cancelled_stream_takes_all_it_has_queued_out(tiny):
    async def consume():
        async for _ in tiny.aencode_stream(Source(f"{i}" for i in itertools.count()), 600):
            pass

    with stalled(tiny) as device:
        consuming = asyncio.create_task(consume())
        await auntil(lambda: device.batches)
        await auntil(lambda: tiny.stats()["queued_tokens"] > 3000)
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        assert tiny.stats()["queued_tokens"] == 0


async def test_an_async_stream_waits_for_a_full_queue():
    with Embedder.load(PROMPTS, max_queued_tokens=60) as embedder:
        chunks = [chunk async for chunk in embedder.aencode_stream(TEXTS, 7)]
        assert_close(np.concatenate(chunks), embedder.encode(TEXTS))


async def test_async_mistakes(tiny):
    with pytest.raises(TypeError, match="item 3 is a int"):
        async for _ in tiny.aencode_stream(Source(["a", "b", "c", 5]).again()):
            pass
    with pytest.raises(TypeError, match="str"):
        tiny.aencode_stream("text")


async def test_a_slow_source_does_not_block_the_loop(tiny):
    """Each text comes when the loop has had its turn."""
    turned = asyncio.Event()

    async def slow():
        for i in range(10):
            turned.clear()
            await turned.wait()
            yield f"a {i}"

    async def turn():
        while True:
            await asyncio.sleep(0)
            turned.set()

    turning = asyncio.create_task(turn())
    async with asyncio.timeout(PATIENCE_S):
        chunks = [chunk async for chunk in tiny.aencode_stream(slow(), 2)]
    turning.cancel()
    assert np.concatenate(chunks).shape == (10, 16)
