"""Weights that are freed after a time unused, or for another model, and come back with the next call."""

import asyncio
import gc
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig, HybridEmbedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from akidb_mlx.checkpoint.unchanged import Stamps
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.errors import BackendError, CheckpointError, ConfigError
from akidb_mlx.pipeline import loaded_model
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from support.checkpoints import (
    CASES,
    MINILM,
    MULTI_VECTOR,
    REFERENCE,
    TINY_RERANKER,
    read_reranker_case,
)
from support.comparison import assert_close
from support.joint import make_joint_folder
from support.waiting import auntil, until

SOON = 0.02
FOLDER = REFERENCE / "bert-mean"
TEXTS = ["Snow fell through the night.", "tea", "harbour " * 20]
# One checkpoint of each model_type: what a model keeps beside its weights differs.
ARCHITECTURES = {
    json.loads((REFERENCE / name / "config.json").read_text(encoding="utf-8")).get("model_type", name): name
    for name in CASES
    if (REFERENCE / name / "config.json").exists()
}


def freed(face):
    return not face.stats()["loaded"]


def active_bytes():
    import mlx.core as mx

    gc.collect()
    return DEVICE_THREADS.run(mx.get_active_memory).result()


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    engines = set(DEVICE_THREADS._engines)
    yield
    gc.collect()
    until(lambda: set(DEVICE_THREADS._engines) <= engines)


@pytest.fixture
def copies(tmp_path):
    """Three models that are no copies of each other to us: three folders."""
    return [shutil.copytree(FOLDER, tmp_path / f"model-{place}") for place in range(3)]


@pytest.fixture
def kept_soon(monkeypatch):
    monkeypatch.setattr(loaded_model, "_KEPT_S", SOON)


@pytest.fixture
def kept_long(monkeypatch):
    monkeypatch.setattr(loaded_model, "_KEPT_S", 3600)


# ── after a time unused ──────────────────────────────────────────────────────────────────────────────


# Some of them in each default run, all in `make test-all`.
EACH_RUN = [
    name if place % 6 == 0 else pytest.param(name, marks=pytest.mark.slow)
    for place, name in enumerate(sorted(ARCHITECTURES.values()))
]


@pytest.mark.parametrize("name", EACH_RUN)
def test_all_memory_is_given_back_and_the_same_model_comes_back(name):
    """`test_parity` compares a model's vectors with the reference; here those before with those after."""
    before = active_bytes()
    with Embedder.load(REFERENCE / name, dtype="float32", keep_alive=SOON) as embedder:
        expected, print_ = embedder.encode(TEXTS), embedder.fingerprint
        until(lambda: freed(embedder))
        until(lambda: active_bytes() <= before + 1024)
        loads = embedder.stats()["loads"]  # 1, unless they went before the first call
        assert_close(embedder.encode(TEXTS), expected, 1e-6)
        assert embedder.stats()["loads"] == loads + 1
        assert embedder.fingerprint == print_


def test_nothing_is_freed_where_nobody_says_so():
    with Embedder.load(FOLDER) as embedder, Embedder.load(REFERENCE / "bert-cls", keep_alive=SOON) as other:
        embedder.encode(TEXTS)
        until(lambda: freed(other))
        assert embedder.stats()["loaded"] and embedder.stats()["keep_alive"] is None
        assert embedder.stats()["weights_bytes"] == embedder.info()["parameter_bytes"] > 0
        assert other.stats()["weights_bytes"] == 0 < other.info()["parameter_bytes"]
        until(lambda: other.stats()["unloads"] == 1)


def test_of_several_who_hold_a_model_the_longest_counts():
    with Embedder.load(FOLDER, keep_alive=SOON) as embedder:
        with Embedder.load(FOLDER) as other:
            assert other._loaded is embedder._loaded
            embedder.encode(TEXTS)
            assert embedder.stats()["keep_alive"] is None
        until(lambda: freed(embedder))
        embedder.keep_for(None)
        embedder.encode(TEXTS)
        assert embedder.stats()["keep_alive"] is None


@pytest.mark.parametrize(
    ("said", "seconds"), [("5m", 300.0), ("1h30m", 5400.0), ("250ms", 0.25), ("90", 90.0), (0, 0.0), (None, None)]
)
def test_how_a_time_is_said(said, seconds):
    assert EmbedderConfig(keep_alive=said).keep_alive == seconds


@pytest.mark.parametrize("said", ["soon", "-1", "-5m", "5 minutes", True, float("inf"), "5mm"])
def test_what_is_no_time(said):
    with pytest.raises(ConfigError, match="keep_alive = "):
        EmbedderConfig(keep_alive=said)


def test_a_call_that_is_under_way_keeps_them():
    """A stream whose reader takes his time is a call: nothing waits, and the weights stay."""
    with Embedder.load(FOLDER) as embedder:
        stream = embedder.encode_stream(TEXTS * 8, chunk_size=2)
        rows = [next(stream)]
        embedder.keep_for(0)  # from here on: with `keep_alive=0` they may go before the call begins
        until(lambda: embedder.stats()["queued_tokens"] == 0)
        assert embedder.stats()["loaded"] and embedder.stats()["idle_s"] == 0
        rows += list(stream)
        until(lambda: freed(embedder))
        assert embedder.stats()["loads"] == 1
    assert np.concatenate(rows).shape == (24, rows[0].shape[1])


def test_the_tokenizer_goes_too():
    with Embedder.load(REFERENCE / "bert-side-lengths", keep_alive=SOON) as embedder:
        expected = embedder.encode_query(TEXTS)
        tokenizers = embedder._loaded.tokenizers
        assert len(tokenizers) > 1
        until(lambda: all(one._live is None for one in tokenizers))
        assert embedder.count_tokens(["tea"]) == [3]
        assert freed(embedder)  # counting tokens needs no weights
        assert_close(embedder.encode_query(TEXTS), expected, 1e-6)


async def test_in_an_event_loop():
    with Embedder.load(FOLDER, keep_alive=SOON) as embedder:
        expected = await embedder.aencode(TEXTS)
        await auntil(lambda: freed(embedder))
        loads = embedder.stats()["loads"]
        embedder.keep_for(None)
        rows = await asyncio.gather(*(embedder.aencode(TEXTS) for _ in range(8)))
        assert embedder.stats()["loads"] == loads + 1
    for one in rows:
        assert_close(one, expected, 1e-6)


def test_many_callers_load_them_once(loads):
    with Embedder.load(FOLDER) as embedder, ThreadPoolExecutor(16) as pool:
        expected = embedder.encode(TEXTS)
        for rounds in range(2, 4):
            embedder.keep_for(SOON)
            until(lambda: freed(embedder))
            embedder.keep_for(None)
            for rows in pool.map(embedder.encode, [TEXTS] * 16):
                assert_close(rows, expected, 1e-6)
            assert len(loads) == embedder.stats()["loads"] == rounds


def test_every_kind_of_model():
    folder, _, _, pairs = read_reranker_case("bert")
    with Reranker.load(folder, dtype="float32", keep_alive=SOON) as reranker:
        for _ in range(2):
            assert reranker.predict(pairs).shape == (len(pairs),)
            until(lambda: freed(reranker))
    with SparseEmbedder.load(REFERENCE / "sparse" / "bert-max", keep_alive=SOON) as sparse:
        expected = sparse.encode_document(TEXTS)
        until(lambda: freed(sparse))
        for row, mine in zip(expected, sparse.encode_document(TEXTS), strict=True):
            np.testing.assert_array_equal(row[0], mine[0])
            assert_close(mine[1], row[1], 1e-6)
    with MultiVectorEmbedder.load(MULTI_VECTOR / "pylate", keep_alive=SOON) as multi:
        expected = multi.encode_document(TEXTS)
        until(lambda: freed(multi))
        assert_close(multi.encode_document(TEXTS)[2], expected[2], 1e-6)


def test_all_heads_of_one_model_come_back(tmp_path):
    folder, before = make_joint_folder(tmp_path), active_bytes()
    with HybridEmbedder.load(folder, keep_alive=SOON) as hybrid:
        expected = hybrid.encode(TEXTS)
        until(lambda: not hybrid.stats()["loaded"])
        until(lambda: active_bytes() <= before + 1024)
        rows = hybrid.encode(TEXTS)
        assert_close(rows.dense, expected.dense, 1e-6)
        assert_close(rows.multi[2], expected.multi[2], 1e-6)
        np.testing.assert_array_equal(rows.sparse[2][0], expected.sparse[2][0])
        until(lambda: not hybrid.stats()["loaded"])
        with SparseEmbedder.load(folder, keep_alive=SOON) as sparse:
            np.testing.assert_array_equal(sparse.encode(TEXTS)[2][0], expected.sparse[2][0])
    with Embedder.load(folder, keep_alive=SOON) as dense:  # a head joins while the weights are away
        until(lambda: freed(dense))
        with SparseEmbedder.load(folder) as sparse:
            np.testing.assert_array_equal(sparse.encode(TEXTS)[2][0], expected.sparse[2][0])
            assert_close(dense.encode(TEXTS), expected.dense, 1e-6)


# ── files that changed meanwhile ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "1_Pooling/config.json"])
def test_changed_files_are_refused(tmp_path, file):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    with Embedder.load(folder, keep_alive=SOON) as embedder:
        embedder.encode(TEXTS)
        until(lambda: freed(embedder))
        _write_again(folder / file, b" ")
        for call in (lambda: embedder.encode(TEXTS), lambda: embedder.fingerprint):
            with pytest.raises(CheckpointError, match=f"{file} was changed since .* was loaded, .* load it again"):
                call()
        assert embedder.stats()["queued_tokens"] == 0


def test_every_file_of_a_model_counts():
    idle = {"README.md", "generation_config.json", "processor_config.json", "reference.json", "reference.npz"}
    for folder in (REFERENCE / name for name in CASES):
        here = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        assert here - idle - set(Stamps.of(folder).files) == set(), folder.name


def test_a_file_that_is_gone(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    with Embedder.load(folder, keep_alive=SOON) as embedder:
        until(lambda: freed(embedder))
        (folder / "model.safetensors").rename(folder / "away")
        with pytest.raises(CheckpointError, match=r"model\.safetensors is gone since"):
            embedder.encode(TEXTS)
        (folder / "away").rename(folder / "model.safetensors")
        assert embedder.encode(TEXTS).shape[0] == 3  # the next call tries again


def test_the_same_files_downloaded_again_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    with Embedder.load(folder, keep_alive=SOON) as embedder:
        print_ = embedder.fingerprint  # from then on its digests are known
        until(lambda: freed(embedder))
        for name in ("model.safetensors", "tokenizer.json"):
            _write_again(folder / name, b"")
        assert embedder.encode(TEXTS).shape[0] == 3
        assert embedder.fingerprint == print_


def test_waiting_requests_fail_together(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    with Embedder.load(folder, keep_alive=SOON) as embedder, ThreadPoolExecutor(8) as pool:
        until(lambda: freed(embedder))
        _write_again(folder / "model.safetensors", b" ")
        for call in [pool.submit(embedder.encode, TEXTS) for _ in range(8)]:
            assert isinstance(call.exception(), CheckpointError)


def _write_again(file, more):
    content = file.read_bytes()
    before = file.stat().st_mtime_ns
    file.write_bytes(content + more)
    os.utime(file, ns=(before + 10**9, before + 10**9))


# ── after the last user ──────────────────────────────────────────────────────────────────────────────


def test_objects_that_are_made_per_request_load_once(kept_long, loads):
    for _ in range(5):
        embeddings = AkiDBMLXEmbeddings(model=str(FOLDER), max_queued_tokens=77_000)
        assert len(embeddings.embed_query("tea")) > 0
        del embeddings
        gc.collect()
    assert len(loads) == 1
    (model,) = [one for one in _loaded_models() if one.engine.queue.max_queued_tokens == 77_000]
    until(lambda: not model.users)
    assert model.engine.model is not None
    Embedder.load(FOLDER, max_queued_tokens=77_000).close()  # closing frees it at once, though others only left it
    assert model.engine.closed and model not in _loaded_models()


def test_a_model_that_nobody_holds_is_closed_after_a_while(kept_soon, loads):
    embedder = Embedder.load(FOLDER)
    engine = embedder._loaded.engine
    embedder.encode(TEXTS)
    del embedder
    gc.collect()
    until(lambda: engine.closed and engine.model is None)  # one after the other, on two threads
    until(lambda: not [model for model in _loaded_models() if model.engine is engine])
    with Embedder.load(FOLDER) as embedder:
        embedder.encode(TEXTS)
    assert len(loads) == 2


def test_who_comes_back_in_time_keeps_it_for_good(kept_long, loads):
    embedder = Embedder.load(FOLDER, keep_alive=3600)
    model = embedder._loaded
    del embedder
    gc.collect()
    until(lambda: not model.users)
    with Embedder.load(FOLDER) as again:
        assert again._loaded is model and again.stats()["keep_alive"] is None
    assert model.engine.closed and len(loads) == 1


def test_a_left_model_whose_files_changed_is_not_shared(kept_long, tmp_path, loads):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    embedder = Embedder.load(folder)
    model = embedder._loaded
    embedder.encode(TEXTS)
    del embedder
    gc.collect()
    until(lambda: not model.users)
    _write_again(folder / "config_sentence_transformers.json", b" ")
    with Embedder.load(folder) as again:
        assert again._loaded is not model and model.engine.closed
    assert len(loads) == 2


def _loaded_models():
    return [future.result() for future in loaded_model._loaded.values() if future.done() and not future.exception()]


# ── one limit for all models ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def limited(monkeypatch):
    """Room for these bytes, whatever the machine has; estimates of batches count for nothing."""
    from akidb_mlx.device.memory import Memory, Room

    made = []

    def limit(size):
        taken = made[0].taken if made else None
        memory = Memory(lambda: Room(size - memory.taken.weights, size - memory.taken.weights, "a limit"), taken)
        made.append(memory)
        return memory

    return limit


@pytest.fixture
def room_for_two(limited, monkeypatch):
    with Embedder.load(FOLDER) as embedder:
        size = embedder.stats()["weights_bytes"]
    memory = limited(int(2.5 * size / 0.9))
    monkeypatch.setattr("akidb_mlx.device.choice._memory", lambda kind, limit_mb: memory)
    monkeypatch.setattr("akidb_mlx.engine.model_engine.Runtime.room", lambda self: float("inf"))
    monkeypatch.setattr("akidb_mlx.engine.batch.Batch._check_room", lambda self: None)
    monkeypatch.setattr("akidb_mlx.engine.batch.Batch.reserve", lambda self: True)
    return memory


def test_the_least_recently_used_model_goes_first(copies, room_for_two, loads):
    a, b, c = (Embedder.load(folder) for folder in copies)
    with a, b, c:
        assert [freed(one) for one in (a, b, c)] == [True, False, False]
        expected = b.encode(TEXTS)
        assert_close(a.encode(TEXTS), expected, 1e-6)
        assert [freed(one) for one in (a, b, c)] == [False, False, True]
        c.encode(TEXTS)
        assert [freed(one) for one in (a, b, c)] == [False, True, False]
        assert len(loads) == 5
        assert room_for_two.taken.weights == 2 * a.info()["parameter_bytes"]
    assert room_for_two.taken.weights == 0


def test_models_take_turns_where_all_are_asked_for(copies, room_for_two):
    """No request fails, none waits for ever, and the rows are the model's."""
    embedders = [Embedder.load(folder) for folder in copies]
    expected = embedders[0].encode(TEXTS)
    most, wrong, count = [0], [], 12

    def ask(seed):
        for turn in range(count):
            rows = embedders[(seed + turn) % 3].encode(TEXTS)
            most[0] = max(most[0], room_for_two.taken.weights)
            if np.abs(rows - expected).max() > 1e-5:
                wrong.append(seed)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    assert not wrong and most[0] <= 2 * embedders[0].info()["parameter_bytes"]
    assert sum(one.stats()["requests"] for one in embedders) >= 6 * count
    for embedder in embedders:
        embedder.close()


def test_a_long_call_goes_on_after_its_model_had_to_go(copies, room_for_two):
    a, b, c = (Embedder.load(folder) for folder in copies)
    texts = [f"harbour {place}" for place in range(3000)]
    expected = b.encode(texts)
    with ThreadPoolExecutor(3) as pool:
        rows = pool.submit(lambda: np.concatenate(list(a.encode_stream(texts, chunk_size=64))))
        others = [pool.submit(lambda one=one: [one.encode(TEXTS) for _ in range(10)]) for one in (b, c)]
        assert_close(rows.result(), expected, 1e-6)
        for other in others:
            other.result()
    assert a.stats()["failed_requests"] == 0
    for embedder in (a, b, c):
        embedder.close()


def test_what_nobody_holds_goes_before_what_somebody_does(copies, room_for_two, loads):
    a, b = Embedder.load(copies[0]), Embedder.load(copies[1])
    b.encode(TEXTS)
    left = b._loaded
    del b
    gc.collect()
    until(lambda: not left.users)
    with a, Embedder.load(copies[2]):
        assert not freed(a)
        until(lambda: left.engine.closed)


def test_a_limit_that_is_too_small_is_one_error_and_frees_nothing(copies):
    with Embedder.load(MINILM, memory_limit_mb=400) as embedder:
        embedder.encode(TEXTS)
        with pytest.raises(BackendError, match=r"its weights take 0\.09 GB .* free of memory_limit_mb=60; take a sm"):
            Embedder.load(MINILM, memory_limit_mb=60)
        assert embedder.stats()["unloads"] == 0


def test_the_real_limit_counts_our_models_alone(tmp_path):
    """Another user of MLX in this process, a language model perhaps, takes nothing of it."""
    import mlx.core as mx

    theirs = mx.zeros((64, 2**20))
    mx.eval(theirs)
    with Embedder.load(MINILM, memory_limit_mb=200) as embedder:
        assert embedder.encode(TEXTS).shape == (3, 384)
        assert embedder.stats()["process_weights_bytes"] >= embedder.info()["parameter_bytes"]
    assert theirs.nbytes == 2**28


def test_reranker_and_embedder_share_the_limit(copies, room_for_two):
    with Embedder.load(copies[0]) as a, Embedder.load(copies[1]) as b, Reranker.load(TINY_RERANKER) as reranker:
        assert freed(a)
        threads = [threading.Thread(target=one) for one in (lambda: a.encode(TEXTS), lambda: b.encode(TEXTS))]
        for thread in threads:
            thread.start()
        assert reranker.predict([("tea", "harbour")]).shape == (1,)
        for thread in threads:
            thread.join()
