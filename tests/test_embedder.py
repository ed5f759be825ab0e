"""Embedder: the same vectors however texts come; prompts, limits, sharing, closing."""

import gc
import json
import logging
import random
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from akidb_mlx import Embedder, EmbedderConfig, EmbedderProtocol
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.errors import BackendError, ClosedError, ConfigError, InputError, QueueFullError
from akidb_mlx.model.encoding import Encoding
from support.checkpoints import REFERENCE
from support.comparison import assert_close, assert_unit_length, close_to
from support.device import model_in_place, stalled
from support.texts import SEVERAL_PARTS
from support.waiting import PATIENCE_S, until

TEXTS = [
    "",
    "a",
    "Snow fell through the night.",
    "Which trees grow in the garden?",
    "tea 🍵 and trains 🚂👩‍🔬",
    "Café naïve Straße, Ελλάδα, 東京 and 日本語!",
    "The library keeps its oldest maps in flat drawers. Readers ask for them by number.",
    "A small harbour town wakes before the sun. " * 5,
    "THE ORCHESTRA TUNES",
    "  two  spaces\tand a tab\nand a line  ",
]


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────


def test_rows_are_float32_arrays_of_one_dimension(tiny):
    rows = tiny.encode(TEXTS)
    assert rows.shape == (len(TEXTS), tiny.dimension) == (10, 16)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous and rows.flags.writeable
    assert np.isfinite(rows).all()
    assert_unit_length(rows)


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_no_texts_give_no_rows(tiny, method):
    rows = getattr(tiny, method)([])
    assert rows.shape == (0, 16) and rows.dtype == np.float32
    assert getattr(tiny, method)((), truncate_dim=5).shape == (0, 5)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_any_sequence_of_str(tiny, kind):
    assert_close(tiny.encode(kind(TEXTS)), tiny.encode(TEXTS))


def test_more_texts_than_one_part(tiny):
    texts = [f"{TEXTS[i % 10]} {i % 37}" for i in range(SEVERAL_PARTS)]
    rows = tiny.encode(texts)
    assert rows.shape == (SEVERAL_PARTS, 16)
    assert_close(rows[1300:1310], tiny.encode(texts[1300:1310]))
    assert_close(rows[-1:], tiny.encode(texts[-1:]))


def test_it_satisfies_the_protocol(tiny):
    assert isinstance(tiny, EmbedderProtocol)
    assert repr(tiny).startswith("Embedder(") and "dimension=16" in repr(tiny)


# ── invariance ───────────────────────────────────────────────────────────────────────────────────────


def test_alone_is_as_in_any_batch(tiny):
    together = tiny.encode(TEXTS)
    assert_close(np.concatenate([tiny.encode([text]) for text in TEXTS]), together)


def test_order_is_irrelevant(tiny):
    together = tiny.encode(TEXTS)
    for seed in range(5):
        order = random.Random(seed).sample(range(len(TEXTS)), len(TEXTS))
        assert_close(tiny.encode([TEXTS[i] for i in order]), together[order])


def test_company_is_irrelevant(tiny):
    long, short = "harbour " * 60, "a"
    alone = tiny.encode([short])
    for count in (1, 7, 50):
        assert_close(tiny.encode([long] * count + [short])[-1:], alone)


def test_equal_texts_have_equal_rows(tiny):
    rows = tiny.encode(["Snow fell"] * 20 + ["a"] + ["Snow fell"] * 20)
    assert_close(rows[-1], rows[0], 0.0)
    assert not close_to(rows[20], rows[0], 0.1)


@pytest.mark.parametrize("max_batch_tokens", [1, 50, 100_000])
def test_the_size_of_batches_is_irrelevant(tiny, max_batch_tokens):
    with Embedder.load(REFERENCE / "bert-prompts", max_batch_tokens=max_batch_tokens) as embedder:
        assert_close(embedder.encode(TEXTS), tiny.encode(TEXTS))


def test_sixteen_threads_get_the_same(tiny):
    expected = tiny.encode(TEXTS)

    def client(seed):
        order = random.Random(seed).sample(range(len(TEXTS)), 1 + seed % 10)
        rows = tiny.encode([TEXTS[i] for i in order])
        return close_to(rows, expected[order])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(client, range(200)))


def test_a_real_model_is_as_invariant(minilm):
    texts = TEXTS[:7]
    together = minilm.encode(texts)
    assert_close(np.concatenate([minilm.encode([text]) for text in texts]), together)
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(lambda _: minilm.encode(texts[::-1]), range(4)):
            assert_close(rows, together[::-1])


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────


def test_lone_surrogates_are_replacement_characters(tiny):
    assert_close(tiny.encode(["a \ud800 b", "\udfff"]), tiny.encode(["a \ufffd b", "\ufffd"]), 0.0)


def test_a_megabyte_of_one_character_is_finite(minilm):
    rows = minilm.encode(["a" * 1_000_000, "🍵" * 250_000, " " * 1_000_000])
    assert np.isfinite(rows).all()


def test_tokens_are_counted_with_prompt_and_special_tokens(tiny):
    assert tiny.count_tokens(["", "a"]) == [2, 3]
    assert tiny.count_tokens(["a " * 1000]) == [48]
    assert tiny.count_tokens(["a"], prompt="a a ") == [5]


# ── length ───────────────────────────────────────────────────────────────────────────────────────────


def test_long_texts_are_cut_with_one_warning_and_counted(folder, caplog):
    with Embedder.load(folder) as embedder, caplog.at_level(logging.WARNING):
        assert embedder.max_seq_length == 48
        rows = embedder.encode(["a " * 46, "a " * 47, "a " * 1000])
        assert_close(rows[1:], [rows[0], rows[0]])
        embedder.encode(["a " * 500])
        warnings = [record.getMessage() for record in caplog.records if "cut" in record.getMessage()]
        assert warnings == [
            "2 of 3 texts have more than 48 tokens and are cut there; later ones are only counted (info())"
        ]
        assert embedder.info()["stats"]["truncated_texts"] == 3


def test_long_texts_are_refused_on_request(folder):
    with Embedder.load(folder, on_overlong="error") as embedder:
        assert embedder.encode(["a " * 46]).shape == (1, 16)
        with pytest.raises(InputError, match=r"text 2 has more than 48 tokens .*on_overlong=\"truncate\""):
            embedder.encode(["a", "b", "a " * 47])
        with pytest.raises(InputError, match=f"text {SEVERAL_PARTS} has more than"):
            embedder.encode(["a"] * SEVERAL_PARTS + ["a " * 47])


def test_a_shorter_length_on_request(folder):
    with Embedder.load(folder, max_seq_length=5) as short, Embedder.load(folder) as whole:
        assert short.max_seq_length == 5
        assert short.count_tokens(["a " * 9]) == [5]
        assert_close(short.encode(["a b c d e f"]), whole.encode(["a b c"]))


def test_a_length_beyond_the_positions_is_refused(folder):
    with pytest.raises(ConfigError, match=r"max_seq_length is 65 \(argument\).* 64 tokens"):
        Embedder.load(folder, max_seq_length=65)
    Embedder.load(folder, max_seq_length=64).close()


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────


def test_queries_are_not_documents(tiny):
    query, document, bare = tiny.encode_query(TEXTS), tiny.encode_document(TEXTS), tiny.encode(TEXTS)
    assert np.abs(query - document).max() > 0.1
    assert np.abs(query - bare).max() > 0.1
    assert_close(query, tiny.encode(["search for: " + text for text in TEXTS]))
    assert_close(document, tiny.encode(["passage text: " + text for text in TEXTS]))


def test_a_prompt_by_name_or_in_full(tiny):
    assert_close(tiny.encode(TEXTS, prompt_name="query"), tiny.encode_query(TEXTS))
    assert_close(tiny.encode(TEXTS, "document"), tiny.encode_document(TEXTS))
    assert_close(tiny.encode(TEXTS, prompt="search for: "), tiny.encode_query(TEXTS))
    assert_close(tiny.encode(TEXTS, prompt_name="query", prompt=""), tiny.encode(TEXTS))
    with pytest.raises(InputError, match="no prompt called 'question'; it has 'query', 'document'"):
        tiny.encode(TEXTS, prompt_name="question")


def test_the_users_prompts_win(tiny):
    with Embedder.load(REFERENCE / "bert-prompts", query_prompt="", document_prompt="sort this: ") as embedder:
        assert_close(embedder.encode_query(TEXTS), tiny.encode(TEXTS))
        assert_close(embedder.encode_document(TEXTS), tiny.encode(TEXTS, prompt="sort this: "))
        assert_close(embedder.encode(TEXTS, prompt_name="document"), embedder.encode_document(TEXTS))


def test_the_default_prompt_is_for_encode_alone():
    with Embedder.load(REFERENCE / "bert-default-prompt") as embedder:
        assert_close(embedder.encode(TEXTS), embedder.encode(TEXTS, prompt="sort this: "))
        assert_close(embedder.encode_document(TEXTS), embedder.encode(TEXTS, prompt=""))
        assert_close(embedder.encode_query(TEXTS), embedder.encode(TEXTS, prompt="search for: "))


@pytest.mark.parametrize(
    ("prompts", "prompt"),
    [
        ({"passage": "p: "}, "p: "),
        ({"document": "", "passage": "p: "}, "p: "),
        ({"corpus": "c: "}, "c: "),
        ({"document": "d: ", "passage": "p: "}, "d: "),
        ({"query": "q: "}, ""),
    ],
)
def test_a_passage_prompt_stands_in_for_a_document_prompt(folder, prompts, prompt):
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    with Embedder.load(folder) as embedder:
        assert_close(embedder.encode_document(TEXTS), embedder.encode(TEXTS, prompt=prompt))


def test_an_empty_document_prompt_of_the_users_wins_over_a_passage_prompt():
    with Embedder.load(REFERENCE / "bert-passage-prompt", document_prompt="") as embedder:
        assert_close(embedder.encode_document(TEXTS), embedder.encode(TEXTS))


def test_prompts_that_pooling_leaves_out():
    with Embedder.load(REFERENCE / "bert-exclude-prompt") as embedder:
        with_prompt = embedder.encode(TEXTS, prompt="search for: ")
        written = embedder.encode(["search for: " + text for text in TEXTS])
        assert np.abs(with_prompt - written).max() > 1e-3
        assert_close(with_prompt, np.concatenate([embedder.encode_query([text]) for text in TEXTS]))


def test_a_prompt_longer_than_the_model_reads():
    with Embedder.load(REFERENCE / "bert-exclude-prompt") as embedder:
        assert np.isfinite(embedder.encode(TEXTS, prompt="a " * 100)).all()


# ── dimension and length of vectors ──────────────────────────────────────────────────────────────────


def test_truncated_vectors_have_unit_length(tiny, caplog):
    full = tiny.encode(TEXTS, normalize=False)
    for dimension in (1, 5, 16):
        rows = tiny.encode(TEXTS, truncate_dim=dimension)
        assert rows.shape == (10, dimension)
        assert_unit_length(rows)
        cut = full[:, :dimension]
        assert_close(rows, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_a_dimension_for_good(folder, caplog):
    with Embedder.load(folder, truncate_dim=5) as short, Embedder.load(folder) as whole:
        assert short.dimension == 5 and whole.dimension == 16
        assert_close(short.encode(TEXTS), whole.encode(TEXTS, truncate_dim=5))
        assert short.encode(TEXTS, truncate_dim=9).shape == (10, 9)  # a call may say otherwise
        assert (short.dimension, short.full_dimension) == (5, 16)
        assert short._loaded is whole._loaded


def test_truncation_is_warned_of_once_where_nothing_says_that_it_was_trained(folder, caplog):
    with caplog.at_level(logging.WARNING), Embedder.load(folder) as embedder:
        embedder.encode(["a"], truncate_dim=16)
        assert "Matryoshka" not in caplog.text
        embedder.encode(["a"], truncate_dim=4)
        embedder.encode(["a"], truncate_dim=4)
        assert caplog.text.count("Matryoshka") == 1


@pytest.mark.parametrize("dimension", [0, -1, 17])
def test_a_dimension_that_the_model_has_not(tiny, dimension):
    with pytest.raises(InputError, match=rf"truncate_dim is {dimension}; .* has 1 to 16 dimensions"):
        tiny.encode(["a"], truncate_dim=dimension)


@pytest.mark.parametrize("dimension", ["8", 8.0, True])
def test_a_dimension_of_another_type(tiny, dimension):
    with pytest.raises(TypeError, match="truncate_dim must be a whole number"):
        tiny.encode(["a"], truncate_dim=dimension)


def test_normalising_is_the_checkpoints_unless_said_otherwise(tiny, caplog):
    with Embedder.load(REFERENCE / "bert-not-normalised") as embedder:
        rows = embedder.encode(TEXTS)
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 0.1
        assert_unit_length(embedder.encode(TEXTS, normalize=True))
    with Embedder.load(REFERENCE / "bert-prompts", normalize=False) as embedder:
        assert np.abs(np.linalg.norm(embedder.encode(TEXTS), axis=1) - 1).max() > 0.1
    assert np.abs(np.linalg.norm(tiny.encode(TEXTS, normalize=False), axis=1) - 1).max() > 0.1


def test_a_users_pooling_wins_with_one_warning(folder, caplog):
    with caplog.at_level(logging.WARNING), Embedder.load(folder, pooling="cls") as cls, Embedder.load(folder) as own:
        assert not close_to(cls.encode(TEXTS), own.encode(TEXTS), 0.01)
    with caplog.at_level(logging.WARNING):
        Embedder.load(folder, pooling="cls").close()  # loaded anew
    (warning,) = [r.getMessage() for r in caplog.records if "pooling" in r.getMessage()]
    assert '"mean"' in warning and '"cls"' in warning and "delete that setting" in warning


def test_faces_of_vectors(tiny):
    rows = tiny.encode(TEXTS)
    assert_close(np.diag(tiny.similarity(rows, rows)), np.ones(10, np.float32))
    assert_close(tiny.similarity_pairwise(rows, rows[::-1]), np.diag(tiny.similarity(rows, rows[::-1])))
    assert tiny.validate(rows.tolist(), unit_length=True).shape == (10, 16)
    with pytest.raises(InputError, match="row 0 has 15 numbers; the model's dimension is 16"):
        tiny.validate(rows[:, :15])


# ── progress ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_progress_bar_reaches_its_end(tiny, monkeypatch, capsys):
    import tqdm

    bars = []

    class Bar(tqdm.tqdm):
        def close(self):
            if self not in bars:
                bars.append(self)
                self.at_the_end = self.n
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    engine = tiny._loaded.engine
    release = engine.queue.release
    monkeypatch.setattr(engine.queue, "release", lambda request: (time.sleep(0.02), release(request)))
    tiny.encode(["a"] * SEVERAL_PARTS, show_progress=True)
    tiny.encode(["a"], show_progress=False)
    (bar,) = bars
    assert bar.at_the_end == bar.total == bar.n == SEVERAL_PARTS
    assert "Embedding" in capsys.readouterr().err


def test_no_bar_unless_asked(tiny, capsys):
    tiny.encode(["a"] * SEVERAL_PARTS)
    assert capsys.readouterr() == ("", "")


# ── the queue ────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_refuses_at_once_or_waits_on_request(folder):
    with Embedder.load(folder, max_queued_tokens=50) as embedder, stalled(embedder) as gate:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(embedder.encode, ["a " * 40])
            until(lambda: gate.batches)
            with pytest.raises(QueueFullError) as caught:
                embedder.encode(["a " * 20])
            assert caught.value.retry_after_s > 0
            second = pool.submit(embedder.encode_document, ["a " * 20], wait=True)
            until(lambda: embedder.stats()["refused_requests"] == 2)  # the second was, at first
            assert not second.done()
            gate.open()
            assert first.result(PATIENCE_S).shape == second.result(PATIENCE_S).shape == (1, 16)
        assert embedder.stats()["queued_tokens"] == 0
        assert embedder.stats()["refused_requests"] >= 1


def test_a_call_that_fills_the_queue_by_itself_is_answered(folder):
    texts = [f"{text} {i}" for i in range(30) for text in TEXTS]
    with Embedder.load(folder, max_queued_tokens=50) as embedder:
        assert embedder.encode(texts).shape == (300, 16)
        assert embedder.stats()["refused_requests"] == 0 or embedder.stats()["queued_tokens"] == 0


def test_queries_are_urgent_unless_they_are_many(folder):
    def answered(embedder):
        stats = embedder.stats()
        return sum(stats["query_latency"]["counts"]), sum(stats["document_latency"]["counts"])

    with Embedder.load(folder, max_batch_tokens=100) as embedder:
        embedder.encode_query(["a"])
        assert answered(embedder) == (1, 0)
        embedder.encode_document(["a"])
        assert answered(embedder) == (1, 1)
        embedder.encode_query(["harbour"] * 200)
        assert answered(embedder) == (1, 2)


def test_one_caller_after_the_other_is_never_refused(folder):
    with Embedder.load(folder, max_queued_tokens=50) as embedder:
        for _ in range(50):
            embedder.encode(["a " * 40])
        assert embedder.stats()["refused_requests"] == 0


def test_a_failing_call_takes_its_texts_out_of_the_queue(folder):
    with Embedder.load(folder) as embedder, stalled(embedder) as gate:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(embedder.encode, ["b"])
            until(lambda: gate.batches)
            with pytest.raises(InputError, match="on_overlong"):
                embedder._path.encode(
                    ["a"] * SEVERAL_PARTS + ["a " * 99], embedder._call("", None, None, on_overlong="error"), False
                )
            assert embedder.stats()["queued_tokens"] == 3
            gate.open()
            running.result(PATIENCE_S)
        assert embedder.stats()["rows"] == 1


def test_a_vector_that_is_not_finite_fails_its_call_alone(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    with Embedder.load(REFERENCE / "bert-prompts") as embedder:
        (ids,) = embedder._loaded.tokenizer.tokenize(["harbour"]).token_ids
    weights["embeddings.word_embeddings.weight"][ids[1]] = np.nan
    save_file(weights, file)
    with Embedder.load(folder) as embedder, stalled(embedder) as gate, ThreadPoolExecutor(2) as pool:
        bad = pool.submit(embedder.encode, ["a"] * SEVERAL_PARTS + ["harbour"])
        good = pool.submit(embedder.encode, TEXTS[:7])
        gate.open()
        with pytest.raises(
            InputError,
            match=rf"input {SEVERAL_PARTS} gives numbers that are not finite .*the weights themselves hold NaN",
        ):
            bad.result(PATIENCE_S)
        assert np.isfinite(good.result(PATIENCE_S)).all()


def test_info_and_stats_are_plain_values(folder):
    with Embedder.load(folder, truncate_dim=4) as embedder:
        embedder.encode(["a", "b"])
        embedder.encode_query(["a"])
        info = json.loads(json.dumps(embedder.info()))
    assert info["dimension"] == 4 and info["truncate_dim"] == 4
    assert info["pooling"] == "mean" and info["architecture"] == "bert" and info["max_seq_length"] == 48
    assert info["model_name"] == str(folder)
    assert info["healthy"] is True
    assert info["parameter_bytes"] > 10_000
    assert info["memory"]["active_bytes"] > 10_000 and info["memory"]["peak_bytes"] >= info["memory"]["active_bytes"]
    assert (info["stats"]["requests"], info["stats"]["texts"]) == (2, 3)
    assert info["sources"]["pooling"] == "1_Pooling/config.json"


# ── sharing and closing ──────────────────────────────────────────────────────────────────────────────


def test_sixteen_first_users_load_one_model(folder, loads):
    barrier = threading.Barrier(16)

    def use(_):
        barrier.wait(PATIENCE_S)
        with Embedder.load(folder) as embedder:
            rows = embedder.encode(TEXTS)
            barrier.wait(PATIENCE_S)
            return rows, id(embedder._loaded)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(use, range(16)))
    assert len(loads) == 1
    assert len({loaded for _, loaded in results}) == 1
    assert all(close_to(rows, results[0][0]) for rows, _ in results)


def test_a_failed_first_load_fails_all_who_wait_and_the_next_may_try(folder, monkeypatch):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    barrier = threading.Barrier(8)

    def use(_):
        barrier.wait(PATIENCE_S)
        return Embedder.load(folder)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(use, i) for i in range(8)]
        assert all("no whole safetensors" in str(future.exception(PATIENCE_S)) for future in futures)
    file.write_bytes(whole)
    Embedder.load(folder).close()


def test_settings_of_the_host_share_a_model_and_others_do_not(folder, loads, tmp_path, caplog):
    link = tmp_path / "link"
    link.symlink_to(folder)
    shared = [
        Embedder.load(folder),
        Embedder.load(link),
        Embedder.load(EmbedderConfig(model=str(folder))),
        Embedder.load(folder, truncate_dim=4, normalize=False, query_prompt="x", on_overlong="error"),
        Embedder.load(folder, local_files_only=True, cache_dir=tmp_path),
    ]
    assert len(loads) == 1
    others = [
        Embedder.load(folder, max_seq_length=20),
        Embedder.load(folder, pooling="cls"),
        Embedder.load(folder, dtype="float16"),
    ]
    assert len(loads) == 4
    for embedder in shared + others:
        embedder.close()


def test_the_last_user_closes_the_model(folder, loads):
    one, other = Embedder.load(folder), Embedder.load(folder)
    engine = one._loaded.engine
    one.close()
    one.close()
    assert not engine.closed
    assert other.encode(["a"]).shape == (1, 16)
    other.close()
    assert engine.closed and engine.model is None
    assert engine not in DEVICE_THREADS._engines
    with Embedder.load(folder) as again:
        assert again._loaded.engine is not engine
    assert len(loads) == 2


def test_a_closed_embedder_says_so(folder):
    with Embedder.load(folder) as other:
        embedder = Embedder.load(folder)
        embedder.close()
        assert not embedder.healthy and other.healthy
        for call in (
            lambda: embedder.encode(["a"]),
            lambda: embedder.encode([]),
            lambda: embedder.encode_query(["a"]),
            lambda: embedder.encode_document(["a"]),
            lambda: embedder.encode_stream(["a"]),
        ):
            with pytest.raises(ClosedError, match="load it again"):
                call()
        assert other.encode(["a"]).shape == (1, 16)


def test_closing_while_others_wait(folder):
    embedder = Embedder.load(folder)
    with stalled(embedder) as gate, ThreadPoolExecutor(4) as pool:
        running = pool.submit(embedder.encode, ["a"])
        until(lambda: gate.batches)
        texts = ["b c"] * SEVERAL_PARTS
        tokens = sum(embedder.count_tokens(["a", *texts, *texts]))
        waiting = [pool.submit(embedder.encode, texts) for _ in range(2)]
        until(lambda: embedder.stats()["queued_tokens"] == tokens)  # all parts of all calls
        closing = pool.submit(embedder.close)
        for future in waiting:
            with pytest.raises(ClosedError):
                future.result(PATIENCE_S)
        gate.open()
        assert running.result(PATIENCE_S).shape == (1, 16)
        closing.result(PATIENCE_S)


def test_an_embedder_that_nobody_holds_gives_its_model_back(folder):
    embedder = Embedder.load(folder)
    engine = embedder._loaded.engine
    model = weakref.ref(engine.model)
    del embedder
    gc.collect()

    def is_gone():
        gc.collect()
        return model() is None

    until(is_gone)
    assert engine.closed


def test_an_embedder_in_a_cycle_collected_on_the_device_thread(folder):
    embedder = Embedder.load(folder)
    engine = embedder._loaded.engine
    embedder.itself = embedder
    del embedder
    DEVICE_THREADS.run(gc.collect).result(PATIENCE_S)
    until(lambda: engine.closed)


def test_loading_and_closing_leaves_no_threads(folder):
    def use():
        with Embedder.load(folder) as embedder:
            embedder.encode(["a"])

    def threads():
        return len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 0

    use()
    before = threads()
    for _ in range(10):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(PATIENCE_S)
    assert threads() <= before + 2


def test_the_device_threads_death_and_revival(folder, caplog):
    embedder = Embedder.load(folder)
    expected = embedder.encode(TEXTS)

    def kills(_):
        raise SystemExit("killed by a test")

    with model_in_place(embedder, kills), pytest.raises(BackendError, match="device thread ended"):
        embedder.encode(["a"])
    assert not embedder.healthy
    assert_close(embedder.encode(TEXTS), expected)
    assert embedder.healthy
    embedder.close()


# ── everything at once ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", [1, 2])
def test_at_random_nothing_is_lost_wrong_or_left_hanging(tiny, folder, seed):
    """Some 2,000 requests of all kinds from 8 threads; at seed 2 the embedder is closed midway."""
    words = " ".join(TEXTS).split()
    rng = random.Random(seed)
    pool_of_texts = [" ".join(rng.choices(words, k=rng.choice((1, 3, 10, 60)))) for _ in range(60)]
    plain, query = tiny.encode(pool_of_texts), tiny.encode_query(pool_of_texts)
    embedder = Embedder.load(folder, max_batch_tokens=300, max_queued_tokens=6000)
    wrong, answered = [], []

    def client(number):
        rng = random.Random(seed * 100 + number)
        for place in range(125):
            chosen = rng.choices(range(60), k=rng.choice((1, 1, 2, 5, 30)))
            texts = [pool_of_texts[i] for i in chosen]
            kind = rng.choice(("encode", "encode", "query", "bad", "stream", "cancelled"))
            try:
                if kind == "bad":
                    with pytest.raises((TypeError, InputError)):
                        embedder.encode([*texts, None] if rng.random() < 0.5 else texts, prompt_name=rng.choice("xy"))
                    continue
                if kind == "cancelled":
                    part = embedder._loaded.tokenizer.tokenize(texts)
                    future = embedder._loaded.engine.submit(list(map(Encoding, part.token_ids)))
                    time.sleep(rng.random() * 0.003)
                    future.cancel()
                    continue
                if kind == "stream":
                    rows = np.concatenate(list(embedder.encode_stream(texts, chunk_size=rng.choice((1, 7, 100)))))
                else:
                    rows = (embedder.encode_query if kind == "query" else embedder.encode)(texts)
                if not close_to(rows, (query if kind == "query" else plain)[chosen]):
                    wrong.append((number, place, kind))
                answered.append(place)
            except QueueFullError:
                time.sleep(0.001)
            except ClosedError:
                if seed == 1:
                    wrong.append((number, place, "closed"))
                return
            except CancelledError:
                wrong.append((number, place, kind, "cancelled"))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        if seed == 2:
            while len(answered) < 200 and not all(one.done() for one in clients):
                time.sleep(0.005)
            embedder.close()
        for one in clients:
            one.result(PATIENCE_S)
    assert not wrong
    assert len(answered) >= 200
    assert embedder.stats()["queued_tokens"] == 0
    embedder.close()
