"""encode_stream: any iterator, in order, in bounded memory, stopped early, and a bad text that ends nothing."""

import asyncio
import itertools

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.engine.batch import Batch
from akidb_mlx.errors import BackendError, InputError
from akidb_mlx.pipeline import text_pipeline as path_module
from support.checkpoints import REFERENCE
from support.comparison import assert_close

TEXTS = [f"text number {i} of many" for i in range(700)]


async def collected(chunks):
    return np.concatenate([chunk async for chunk in chunks])


def counted(texts, seen):
    for text in texts:
        seen.append(text)
        yield text


async def acounted(texts, seen):
    for text in texts:
        await asyncio.sleep(0)
        seen.append(text)
        yield text


def test_any_iterable_gives_the_rows_of_a_list_in_order(tiny):
    expected = tiny.encode_document(TEXTS)
    for texts in (TEXTS, tuple(TEXTS), iter(TEXTS), (text for text in TEXTS)):
        chunks = list(tiny.encode_stream(texts, chunk_size=300, side="document"))
        assert [len(chunk) for chunk in chunks] == [300, 300, 100]
        assert_close(np.concatenate(chunks), expected, tolerance=3e-6)


async def test_async_iterables_too(tiny):
    expected = tiny.encode_document(TEXTS)
    for texts in (TEXTS, acounted(TEXTS, [])):
        rows = await collected(tiny.aencode_stream(texts, chunk_size=300, side="document"))
        assert_close(rows, expected, tolerance=3e-6)


def test_a_side_takes_its_prompt(tiny):
    for side, encode in (("query", tiny.encode_query), ("document", tiny.encode_document), (None, tiny.encode)):
        (rows,) = tiny.encode_stream(TEXTS[:3], side=side)
        assert_close(rows, encode(TEXTS[:3]), tolerance=3e-6)
    for other in ({"prompt": "x"}, {"prompt_name": "query"}):
        with pytest.raises(InputError, match="a side"):
            tiny.encode_stream(TEXTS, side="document", **other)


def test_no_more_is_read_than_a_few_chunks_ahead(tiny):
    seen = []
    for done, _ in enumerate(tiny.encode_stream(counted(TEXTS, seen), chunk_size=50), 1):
        assert len(seen) <= 50 * (done + path_module._STREAM_CHUNKS_IN_FLIGHT - 1)


async def test_no_more_is_read_ahead_of_an_async_source(tiny):
    seen, done = [], 0
    async for _ in tiny.aencode_stream(acounted(TEXTS, seen), chunk_size=50):
        done += 1
        assert len(seen) <= 50 * (done + path_module._STREAM_CHUNKS_IN_FLIGHT - 1)


def test_long_texts_make_small_chunks(tiny, monkeypatch):
    monkeypatch.setattr(path_module, "_LEAST_CHUNK_CHARACTERS", 5000)
    monkeypatch.setattr(path_module, "_MOST_CHUNK_CHARACTERS", 5000)
    long = ["word " * 500] * 7  # 2,500 characters each
    assert [len(chunk) for chunk in tiny.encode_stream(long, chunk_size=100)] == [2, 2, 2, 1]
    assert [len(chunk) for chunk in tiny.encode_stream(["word " * 5000] * 2, chunk_size=100)] == [1, 1]
    assert sum(map(len, tiny.encode_stream([*TEXTS, *long], chunk_size=100))) == 707


async def test_long_texts_make_small_chunks_async(tiny, monkeypatch):
    monkeypatch.setattr(path_module, "_LEAST_CHUNK_CHARACTERS", 5000)
    monkeypatch.setattr(path_module, "_MOST_CHUNK_CHARACTERS", 5000)
    chunks = tiny.aencode_stream(["word " * 500] * 7, chunk_size=100)
    assert [len(chunk) async for chunk in chunks] == [2, 2, 2, 1]


def test_it_can_be_stopped_early_and_its_texts_leave_the_queue(tiny):
    seen = []
    endless = counted((f"text {i}" for i in itertools.count()), seen)
    stream = tiny.encode_stream(endless, chunk_size=64)
    next(stream)
    stream.close()
    assert len(seen) < 1000
    assert tiny.stats()["queued_tokens"] == 0
    assert tiny.encode(["still there"]).shape == (1, 16)


async def test_an_async_one_can_be_stopped_early(tiny):
    stream = tiny.aencode_stream(acounted((f"text {i}" for i in itertools.count()), []), chunk_size=64)
    await anext(stream)
    await stream.aclose()
    assert tiny.stats()["queued_tokens"] == 0


def test_backpressure_waits_where_encode_is_refused():
    with Embedder.load(REFERENCE / "bert-prompts", max_queued_tokens=200) as small:
        rows = np.concatenate(list(small.encode_stream(TEXTS, chunk_size=100)))
    assert rows.shape == (700, 16)


# a bad text


def mixed(bad):
    return [bad if i % 7 == 3 else text for i, text in enumerate(TEXTS)]


def checked(rows, told, embedder, places):
    assert sorted(told) == places
    assert np.isnan(rows[places]).all()
    good = [i for i in range(len(rows)) if i not in set(places)]
    assert_close(rows[good], embedder.encode_document([TEXTS[i] for i in good]), tolerance=3e-6)


BAD = list(range(3, 700, 7))


def test_texts_that_are_too_long_are_told_and_the_others_embedded():
    with Embedder.load(REFERENCE / "bert-prompts", on_overlong="error") as strict:
        texts, told = mixed("word " * 60), {}
        with pytest.raises(InputError, match="text 3 has more than 48 tokens"):
            list(strict.encode_stream(texts, side="document"))
        rows = np.concatenate(list(strict.encode_stream(texts, 100, side="document", on_error=told.__setitem__)))
        checked(rows, told, strict, BAD)
        assert "text 10 has more than 48 tokens" in str(told[10])
        (none,) = strict.encode_stream(["word " * 60] * 3, side="document", on_error=lambda *_: None)
        assert np.isnan(none).all()
        assert none.shape == (3, 16)
        assert strict.stats()["queued_tokens"] == 0


async def test_async_too():
    with Embedder.load(REFERENCE / "bert-prompts", on_overlong="error") as strict:
        told = {}
        stream = strict.aencode_stream(mixed("word " * 60), 100, side="document", on_error=told.__setitem__)
        checked(await collected(stream), told, strict, BAD)


def test_texts_without_tokens_are_told(tiny, monkeypatch):
    tokenizer, real = tiny._loaded.tokenizer, tiny._loaded.tokenizer.tokenize

    def tokenize(texts, first_index=0):
        for index, text in enumerate(texts):
            if "nothing" in text:
                raise InputError(f"text {first_index + index} has no tokens")
        return real(texts, first_index)

    monkeypatch.setattr(tokenizer, "tokenize", tokenize)
    told = {}
    rows = np.concatenate(list(tiny.encode_stream(mixed("nothing"), side="document", on_error=told.__setitem__)))
    assert str(told[10]) == "text 10 has no tokens"
    checked(rows, told, tiny, BAD)


def test_vectors_that_are_not_finite_are_told(tiny, monkeypatch):
    engine, real = tiny._loaded.engine, tiny._loaded.engine.model
    poison = tiny._loaded.tokenizer.tokenize(["passage text: poison"]).token_ids[0]

    def model(batch):
        import mlx.core as mx

        rows = real(batch)
        lengths = zip(batch.input_ids, batch.lengths, strict=True)
        hit = [np.array_equal(ids[:length], poison) for ids, length in lengths]
        return mx.where(mx.array(hit)[:, None], mx.array(float("nan")), rows)

    model.why_not_finite = real.why_not_finite
    monkeypatch.setattr(engine, "model", model)
    told = {}
    with pytest.raises(InputError, match=r"input \d+ gives numbers that are not finite"):
        list(tiny.encode_stream(mixed("poison"), side="document"))
    rows = np.concatenate(list(tiny.encode_stream(mixed("poison"), 300, side="document", on_error=told.__setitem__)))
    monkeypatch.setattr(engine, "model", real)
    checked(rows, told, tiny, BAD)
    assert "input 10 gives numbers that are not finite" in str(told[10])


def test_a_text_on_which_the_device_fails_is_told(tiny, monkeypatch):
    real = Batch.start
    poison = tiny._loaded.tokenizer.tokenize(["passage text: poison"]).token_ids[0]

    def start(batch):
        if any(np.array_equal(row.encoding.token_ids, poison) for row in batch.plan.rows):
            raise RuntimeError("illegal instruction")
        real(batch)

    monkeypatch.setattr(Batch, "start", start)
    told = {}
    rows = np.concatenate(list(tiny.encode_stream(mixed("poison"), 300, side="document", on_error=told.__setitem__)))
    monkeypatch.setattr(Batch, "start", real)
    checked(rows, told, tiny, BAD)
    assert isinstance(told[10], BackendError)
