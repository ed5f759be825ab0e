"""The remote classes give what the local ones give, from the same recipe, and refuse what they refuse."""

import asyncio
import copy
import inspect
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from akidb_mlx import (
    Embedder,
    EmbedderConfig,
    MultiVectorConfig,
    MultiVectorEmbedder,
    RemoteEmbedder,
    RemoteMultiVectorEmbedder,
    RemoteReranker,
    RemoteSparseEmbedder,
    Reranker,
    RerankerConfig,
    SparseConfig,
    SparseEmbedder,
    errors,
)
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.pipeline.watching import watched_by
from akidb_mlx.recipe import check_recipe, recipe_metadata, recipe_of
from support.checkpoints import MINILM, PROMPTS, REFERENCE, TINY_RERANKER
from support.comparison import assert_close
from support.joint import make_joint_folder
from support.serving import serving

DEFAULT = REFERENCE / "bert-default-prompt"
SIDES = REFERENCE / "bert-side-lengths"
LABELS = REFERENCE / "rerankers" / "bert-three-labels"
SPLADE = REFERENCE / "sparse" / "bert-max"
COLBERT = REFERENCE / "multi_vector" / "fixed"
TEXTS = [
    "A cat sleeps.",
    "",
    " spaces  kept \n\t",
    "emoji 🙂 and 日本語",
    "nul \x00 byte",
    'quotes " and \\',
    "lone \ud83d x",
]
LONG = "word " * 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_joint_folder(tmp_path_factory.mktemp("hybrid"))


@pytest.fixture(scope="module")
def server(folder):
    models = {
        "minilm": MINILM,
        "prompts": PROMPTS,
        "default": DEFAULT,
        "sides": SIDES,
        "rerank": RerankerConfig(model=TINY_RERANKER),
        "labels": RerankerConfig(model=LABELS),
        "splade": SparseConfig(model=SPLADE),
        "colbert": MultiVectorConfig(model=COLBERT),
        "m3": HybridConfig(model=folder),
    }
    with serving(models, max_texts=300) as running:
        yield running


def assert_same(found, expected):
    """Bit by bit, whatever form of rows."""
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert found.flags.writeable
    else:
        assert type(found) is type(expected)
        for name in expected.__dataclass_fields__:
            one, other = getattr(found, name), getattr(expected, name)
            assert_same(one, other) if isinstance(other, np.ndarray) else None
            assert np.array_equal(one, other)


def both(server, model, remote=RemoteEmbedder, local=Embedder, **fields):
    return remote.load(model, base_url=server.url, **fields), local.load(model, **fields)


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_rows_are_equal_bit_by_bit(server, text):
    there, here = both(server, MINILM)
    with there, here:
        for method in ("encode", "encode_query", "encode_document"):
            assert_same(getattr(there, method)([text]), getattr(here, method)([text]))
            assert_same(asyncio.run(getattr(there, f"a{method}")([text])), getattr(here, method)([text]))


def test_prompts_dimensions_and_normalisation_of_a_call(server):
    there, here = both(server, PROMPTS)
    with there, here:
        for options in (
            {"prompt_name": "query"},
            {"prompt": "passage text: "},
            {"prompt": ""},
            {"truncate_dim": 5},
            {"truncate_dim": 5, "normalize": False},
            {"normalize": False},
        ):
            assert_same(there.encode(["tea"], **options), here.encode(["tea"], **options))
        assert_same(there.encode_query(["tea"], truncate_dim=3), here.encode_query(["tea"], truncate_dim=3))
        assert not np.allclose(there.encode_query(["tea"]), there.encode_document(["tea"]), atol=1e-3)
        for bad, error in ((17, errors.InputError), (0, errors.InputError), ("8", TypeError), (True, TypeError)):
            assert_refused_alike(there, here, "encode", (["a"],), {"truncate_dim": bad}, error)
        assert_refused_alike(there, here, "encode", (["a"],), {"prompt_name": "nobody"}, errors.InputError)
        assert there.encode([], truncate_dim=5).shape == (0, 5)
        assert (there.dimension, there.full_dimension, there.max_seq_length) == (16, 16, 48)


@pytest.mark.parametrize("output_dtype", ["float16", "binary", "ubinary"])
def test_small_vectors_are_made_of_the_same_rows(server, output_dtype):
    there, here = both(server, PROMPTS)
    with there, here:
        for method in ("encode", "encode_query", "encode_document"):
            found = getattr(there, method)(["tea"], output_dtype=output_dtype)
            assert_same(found, getattr(here, method)(["tea"], output_dtype=output_dtype))
        assert there.encode([], output_dtype=output_dtype).dtype == found.dtype
        assert_refused_alike(there, here, "encode", (["a"],), {"output_dtype": "int8"}, errors.InputError)
        assert_refused_alike(there, here, "encode", (["a"],), {"output_dtype": "odd"}, errors.InputError)


def test_a_calibration_is_the_clients_or_the_servers(server, tmp_path):
    file = tmp_path / "calibration.json"
    file.write_text('{"scale": 0.005}')
    there, here = both(server, PROMPTS, calibration=file)
    with there, here:
        expected = here.encode(["tea"], output_dtype="int8")
        assert_same(there.encode(["tea"], output_dtype="int8"), expected)
    with serving({"m": EmbedderConfig(model=PROMPTS, calibration=file)}) as other:
        with RemoteEmbedder.load("m", base_url=other.url) as there:
            assert_same(there.encode(["tea"], output_dtype="int8"), expected)


def test_a_task_of_a_model_without_tasks_is_refused_alike(server):
    there, here = both(server, PROMPTS)
    with there, here:
        assert_refused_alike(there, here, "encode", (["a"],), {"task": "retrieval.query"}, errors.InputError)
        assert_refused_alike(there, here, "encode", (["a"],), {"task": 3}, TypeError)


def assert_refused_alike(there, here, method, arguments, options, error):
    said = []
    for one in (there, here):
        with pytest.raises(error) as caught:
            getattr(one, method)(*arguments, **options)
        said.append((str(caught.value), getattr(caught.value, "place", None), getattr(caught.value, "text", None)))
    assert said[0] == said[1]


def test_the_default_prompt_and_the_lengths_of_sides(server):
    for model, options in ((DEFAULT, {}), (SIDES, {}), (SIDES, {"truncate_dim": 7})):
        there, here = both(server, model, **options)
        with there, here:
            for method in ("encode", "encode_query", "encode_document"):
                assert_same(getattr(there, method)([LONG]), getattr(here, method)([LONG]))
            assert there.fingerprint == here.fingerprint


@pytest.mark.parametrize("texts", ["bare", b"bytes", {"a": 1}, {"a"}, 5, None, ["a", 3], [None]], ids=repr)
def test_what_is_no_list_of_texts_is_refused_alike(server, texts):
    there, here = both(server, PROMPTS)
    with there, here:
        assert_refused_alike(there, here, "encode", (texts,), {}, TypeError)
        with pytest.raises(TypeError, match="must be a list of str|item"):
            asyncio.run(there.aencode_query(texts))


def test_many_texts_go_in_several_requests_in_their_order(server, monkeypatch):
    bodies = sent(monkeypatch)
    there, here = both(server, PROMPTS)
    texts = [f"text {place} {'more words ' * (place % 9)}" for place in range(1000)]
    with there, here:
        rows = there.encode_document(texts)
        assert_close(rows, here.encode_document(texts))
        assert sum("/rows" in path for path, _ in bodies) == 4
        assert_close(asyncio.run(there.aencode(texts)), here.encode(texts))
        chunks = list(there.encode_stream(iter(texts), chunk_size=300, side="query"))
        assert [len(chunk) for chunk in chunks] == [300, 300, 300, 100]
        assert_close(np.concatenate(chunks), here.encode_query(texts))

        async def stream():
            return [chunk async for chunk in there.aencode_stream(texts, chunk_size=256)]

        assert_close(np.concatenate(asyncio.run(stream())), here.encode(texts))
        assert list(there.encode_stream([])) == []


def sent(monkeypatch):
    """Paths and bodies of what is sent from now on."""
    from akidb_mlx.remote.connection import Connection

    bodies, answer = [], Connection._answer

    async def noted(self, path, body, *more):
        bodies.append((path, body))
        return await answer(self, path, body, *more)

    monkeypatch.setattr(Connection, "_answer", noted)
    return bodies


def test_requests_stay_within_what_the_server_takes(monkeypatch):
    limits = {"max_texts": 7, "max_request_bytes": 4000, "max_request_tokens": 900}
    texts = [f"{place} " + "word \n" * (place % 40) for place in range(60)]
    with serving({"m": PROMPTS}, **limits) as tight:
        there, here = both(tight, PROMPTS)
        bodies = sent(monkeypatch)
        with there, here:
            assert_close(there.encode(texts), here.encode(texts))
            assert max(len(body) for _, body in bodies) <= 4000
            assert_close(there.encode(texts[:7]), here.encode(texts[:7]))
            with pytest.raises(errors.InputError, match=r"more than 4000 bytes \(max_request_bytes\)"):
                there.encode(["x" * 5000])


def test_a_text_that_cannot_be_embedded_is_named_by_its_place(server):
    there, here = both(server, PROMPTS, on_overlong="error")
    texts = ["short"] * 600 + [LONG] + ["short"] * 10
    with there, here:
        assert_refused_alike(there, here, "encode", (texts,), {}, errors.InputError)
        told = []
        chunks = list(
            there.encode_stream(texts, chunk_size=200, on_error=lambda place, error: told.append((place, str(error))))
        )
        assert [place for place, _ in told] == [600]
        assert told[0][1].startswith("text 600 has more than 48 tokens")
        rows = np.concatenate(chunks)
        assert np.isnan(rows[600]).all() and np.isfinite(np.delete(rows, 600, axis=0)).all()
        expected = []
        list(
            here.encode_stream(
                texts, chunk_size=200, on_error=lambda place, error: expected.append((place, str(error)))
            )
        )
        assert told == expected
        with pytest.raises(errors.InputError, match="text 600 has more than 48 tokens"):
            list(there.encode_stream(texts, chunk_size=200))


def test_texts_that_are_cut_are_told_once_and_counted(server, caplog):
    there, here = both(server, PROMPTS)
    caplog.set_level(logging.WARNING, "akidb_mlx.remote")
    with there, here:
        _, usage = asyncio.run(there.aencode_with_usage([LONG, "short"]))
        assert usage == asyncio.run(here.aencode_with_usage([LONG, "short"]))[1]
        assert (usage.truncated_texts, usage.tokens) == (1, sum(here.count_tokens([LONG, "short"])))
        there.encode([LONG])
        told = [record.message for record in caplog.records if record.name.startswith("akidb_mlx.remote")]
        assert told == ["1 of 2 texts have more than 48 tokens and are cut there; later ones are only counted (info())"]
        assert there.stats()["truncated_texts"] >= 2
        for options in ({}, {"truncate": False}):
            found = there.count_tokens([LONG, "a b"], "ask: ", **options)
            assert found == here.count_tokens([LONG, "a b"], "ask: ", **options)
        with pytest.raises(errors.InputError, match="more than 3 tokens together"):
            asyncio.run(there.aencode_with_usage(["some words here"], max_tokens=3))


# ── other kinds ──────────────────────────────────────────────────────────────────────────────────────


def test_a_rerankers_scores_are_equal_bit_by_bit(server):
    there, here = both(server, TINY_RERANKER, RemoteReranker, Reranker)
    documents = ["a harbour in the snow", "the engine", ""]
    with there, here:
        for pair in [("engine", text) for text in documents]:
            assert_same(there.predict([pair]), here.predict([pair]))
            assert_same(there.predict([pair], activation="identity"), here.predict([pair], activation="identity"))
            assert_same(there.predict([pair], prompt="x: "), here.predict([pair], prompt="x: "))
        found, expected = there.rank("engine", documents, 2), here.rank("engine", documents, 2)
        assert [one.corpus_id for one in found] == [one.corpus_id for one in expected]
        assert_close([one.score for one in found], [one.score for one in expected])
        assert asyncio.run(there.arank("engine", documents)) == there.rank("engine", documents)
        assert_close(np.concatenate(list(there.predict_stream([("a", "b")] * 5, 2))), here.predict([("a", "b")] * 5))
        assert there.predict([]).shape == (0,)
        assert there.count_tokens([("a", "b c")]) == here.count_tokens([("a", "b c")])
        assert (there.fingerprint, there.num_labels, there.activation) == (here.fingerprint, 1, here.activation)
        assert_refused_alike(there, here, "predict", (["text"],), {}, TypeError)
        assert_refused_alike(there, here, "predict", ([("a", "b")],), {"activation": "softmax"}, errors.InputError)
        assert_refused_alike(there, here, "rank", ("a", ["b"], -1), {}, errors.InputError)


def test_a_model_of_several_labels_gives_all_of_them(server):
    there, here = both(server, LABELS, RemoteReranker, Reranker)
    with there, here:
        assert there.num_labels == 3
        assert_same(there.predict([("engine", "a train")]), here.predict([("engine", "a train")]))
        assert there.predict([]).shape == (0, 3)
        assert_refused_alike(there, here, "rank", ("a", ["b"]), {}, errors.InputError)


def test_sparse_rows_are_equal_bit_by_bit(server):
    there, here = both(server, SPLADE, RemoteSparseEmbedder, SparseEmbedder)
    with there, here:
        for text in ("a harbour in the snow", ""):
            for method in ("encode", "encode_query", "encode_document"):
                assert_same(getattr(there, method)([text]), getattr(here, method)([text]))
            assert_same(there.encode([text], max_active_dims=3), here.encode([text], max_active_dims=3))
        assert (there.fingerprint, there.dimension) == (here.fingerprint, here.dimension)
        assert len(there.encode([])) == 0 and there.encode([]).dimension == here.dimension
        assert_same(
            there.similarity(there.encode(["a"]), there.encode(["a"])),
            here.similarity(here.encode(["a"]), here.encode(["a"])),
        )
        assert_refused_alike(there, here, "encode", (["a"],), {"max_active_dims": 0}, errors.InputError)
        with pytest.raises(errors.ConfigError, match="decode is done where the model is, .* POST /api/v1/terms"):
            there.decode(there.encode(["a"]))


def test_vectors_per_token_are_equal_bit_by_bit(server):
    for options in ({}, {"output_dtype": "float16"}, {"token_pooling": 2}):
        there, here = both(server, COLBERT, RemoteMultiVectorEmbedder, MultiVectorEmbedder, **options)
        with there, here:
            for method in ("encode", "encode_query", "encode_document"):
                assert_same(
                    getattr(there, method)(["a harbour in the snow"]), getattr(here, method)(["a harbour in the snow"])
                )
            assert there.fingerprint == here.fingerprint
            assert len(there.encode([])) == 0 and there.encode([]).dimension == here.dimension
            documents = ["a harbour", "the engine of a train"]
            assert there.rank("engine", documents)[0].corpus_id == here.rank("engine", documents)[0].corpus_id
            assert_close(
                there.predict([("engine", text) for text in documents]),
                here.predict([("engine", text) for text in documents]),
            )
            with pytest.raises(errors.ConfigError, match="tokens is done where the model is"):
                there.tokens(["a"])
            with pytest.raises(errors.ConfigError, match="on_device"):
                there.similarity(there.encode(["a"]), there.encode(["a"]), on_device=True)


def test_a_hybrid_models_forms_are_asked_for_one_by_one(server, folder):
    for remote, local in (
        (RemoteEmbedder, Embedder),
        (RemoteSparseEmbedder, SparseEmbedder),
        (RemoteMultiVectorEmbedder, MultiVectorEmbedder),
    ):
        there, here = both(server, folder, remote, local)
        with there, here:
            assert there.fingerprint == here.fingerprint
            assert_same(there.encode_document(["tea"]), here.encode_document(["tea"]))


# ── the recipe ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"truncate_dim": 8},
        {"query_prompt": "q: ", "document_prompt": ""},
        {"normalize": False},
        {"on_overlong": "error"},
        {"pooling": "mean", "max_seq_length": 48},  # as the files say
    ],
    ids=str,
)
def test_settings_are_the_clients_and_the_recipe_is_that_of_the_process(server, fields):
    there, here = both(server, PROMPTS, **fields)
    with there, here:
        assert there.fingerprint == here.fingerprint
        assert recipe_of(there) == recipe_of(here) | {"model_name": recipe_of(there)["model_name"]}
        check_recipe(recipe_metadata(here), there)
        check_recipe(recipe_metadata(there), here)
        assert_same(there.encode_query(["tea"]), here.encode_query(["tea"]))
        other = there.with_settings(truncate_dim=4)
        with other:
            assert other.encode(["a"]).shape == (1, 4)
            with pytest.raises(errors.ConfigError, match="another recipe"):
                check_recipe(recipe_metadata(there), other)


def test_what_is_not_said_is_as_the_server_has_it():
    with serving({"m": EmbedderConfig(model=PROMPTS, truncate_dim=8, query_prompt="q: ", dtype="bfloat16")}) as other:
        with (
            RemoteEmbedder.load("m", base_url=other.url) as there,
            Embedder.load(PROMPTS, truncate_dim=8, query_prompt="q: ", dtype="bfloat16") as here,
        ):
            assert there.fingerprint == here.fingerprint
            assert recipe_of(there)["dtype"] == "bfloat16"
            assert_same(there.encode_query(["tea"]), here.encode_query(["tea"]))
        with RemoteEmbedder.load("m", base_url=other.url, truncate_dim=None, query_prompt="x: ") as there:
            assert there.dimension == 16
        with pytest.raises(errors.ConfigError, match="served with dtype='bfloat16', not 'float32'"):
            RemoteEmbedder.load("m", base_url=other.url, dtype="float32")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pooling": "cls"}, "served with pooling='mean', not 'cls'.*--pooling"),
        ({"max_seq_length": 9}, "served with max_seq_length=48, not 9.*--max-seq-length"),
        ({"dtype": "bfloat16"}, "served with dtype=None, not 'bfloat16'"),
        ({"exact_reference": True}, "served with exact_reference=None, not True"),
        ({"revision": "abc"}, "served with revision=None, not 'abc'"),
        ({"truncate_dim": 99}, "has 1 to 16 dimensions"),
        ({"device": "cpu"}, "device: how to compute is the server's business"),
        ({"max_batch_tokens": 9, "cache_limit_mb": 0}, "cache_limit_mb, max_batch_tokens: how to compute"),
        ({"truncat_dim": 9}, "truncat_dim"),
    ],
    ids=str,
)
def test_a_setting_that_the_server_cannot_serve_is_refused(server, fields, said):
    with pytest.raises(errors.ConfigError, match=said):
        RemoteEmbedder.load(PROMPTS, base_url=server.url, **fields)


def test_settings_of_this_machine_are_left_aside(server, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_DEVICE", "cpu")
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "8")
    with RemoteEmbedder.load(PROMPTS, base_url=server.url) as there:
        assert there.dimension == 8


def test_another_fingerprint_than_the_one_that_is_wanted_is_refused(server):
    with Embedder.load(PROMPTS) as here:
        RemoteEmbedder.load(PROMPTS, base_url=server.url, fingerprint=here.fingerprint).close()
        with pytest.raises(errors.ConfigError, match=f"gives rows of the fingerprint .*, not {here.fingerprint}"):
            RemoteEmbedder.load(PROMPTS, base_url=server.url, fingerprint=here.fingerprint, truncate_dim=8)


def test_another_kind_and_another_name_are_refused(server):
    with pytest.raises(errors.ModelNotFoundError, match="no model is served as 'nobody/nothing'; there is minilm, "):
        RemoteEmbedder.load("nobody/nothing", base_url=server.url)
    with pytest.raises(errors.UnsupportedModelError, match="is a reranker"):
        RemoteEmbedder.load("rerank", base_url=server.url)
    with pytest.raises(errors.UnsupportedModelError, match="is an embedder"):
        RemoteReranker.load("prompts", base_url=server.url)
    with pytest.raises(TypeError, match="takes a EmbedderConfig"):
        RemoteEmbedder.load(RerankerConfig(model="rerank"), base_url=server.url)


# ── objects ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("remote", "local"),
    [
        (RemoteEmbedder, Embedder),
        (RemoteReranker, Reranker),
        (RemoteSparseEmbedder, SparseEmbedder),
        (RemoteMultiVectorEmbedder, MultiVectorEmbedder),
    ],
    ids=lambda one: one.__name__,
)
def test_they_have_the_methods_of_the_local_classes(remote, local):
    own = {"server", "wanted_fingerprint", "requested_dtype"}
    public = {name for name in dir(remote) if not name.startswith("_")}
    assert public - own == {name for name in dir(local) if not name.startswith("_")}
    for name in public:
        assert inspect.getdoc(getattr(remote, name)), name
        if callable(getattr(local, name, None)) and name not in ("load", "count_tokens"):
            assert inspect.signature(getattr(remote, name)) == inspect.signature(getattr(local, name)), name


def test_pickles_copies_and_info(server):
    with RemoteEmbedder.load(PROMPTS, base_url=server.url, truncate_dim=8, timeout_s=77) as there:
        before = pickle.dumps(there)
        row = there.encode(["tea"])
        assert pickle.dumps(there) == before and len(before) < 1000
        with pickle.loads(before) as again, copy.deepcopy(there) as copied:
            for one in (again, copied):
                assert_same(one.encode(["tea"]), row)
                assert (one.server, one.server.timeout_s, one.config) == (there.server, 77, there.config)
        with pytest.raises(errors.ConfigError, match="keep_for is done where the model is, .* --keep-alive"):
            there.keep_for(1)
        info = there.info()
        assert (info["dimension"], info["server"], info["healthy"]) == (8, server.url, True)
        assert there.healthy and set(there.stats()) == set(info["stats"])
        assert repr(there) == f"RemoteEmbedder({str(PROMPTS)!r}, base_url={server.url!r})"
        assert there.validate([[0.0] * 8]).shape == (1, 8)
        assert there.similarity(row, row).shape == (1, 1)
    assert not there.healthy
    for call in (lambda: there.encode(["a"]), there.info, lambda: there.count_tokens(["a"]), there.with_settings):
        with pytest.raises(errors.ClosedError, match="the remote-embedder is closed"):
            call()
    there.close()


def test_sixteen_threads_and_an_event_loop_share_one(server):
    there, here = both(server, PROMPTS)
    with there, here, ThreadPoolExecutor(16) as threads:
        texts = [f"text {place}" for place in range(64)]
        expected = {text: here.encode([text]) for text in texts}
        for text, row in zip(texts, threads.map(lambda text: there.encode([text]), texts), strict=True):
            assert_close(row, expected[text])

        async def together():
            return await asyncio.gather(*(there.aencode_query([text]) for text in texts))

        for text, row in zip(texts, asyncio.run(together()), strict=True):
            assert_close(row, here.encode_query([text]))


def test_whoever_watches_is_told_what_is_computed_and_what_is_cut(server):
    class Noting:
        def __init__(self):
            self.texts, self.places = 0, []

        def computed(self, texts):
            self.texts += texts

        def cut(self, places):
            self.places += places

    texts = ["a"] * 300 + [LONG] + ["b"] * 299
    there, here = both(server, PROMPTS)
    with there, here:
        for call in (
            lambda one: one.encode(texts),
            lambda one: one.encode([LONG, "a"]),
            lambda one: list(one.encode_stream(texts, chunk_size=300)),
            lambda one: asyncio.run(one.aencode(texts)),
        ):
            told = []
            for one in (there, here):
                watch = Noting()
                with watched_by(watch):
                    call(one)
                told.append((watch.texts, watch.places))
            assert told[0] == told[1] and told[0][1]


def test_progress_is_shown(server, capsys):
    with RemoteEmbedder.load(PROMPTS, base_url=server.url) as there:
        there.encode(["a"] * 600, show_progress=True)
        assert "600/600" in capsys.readouterr().err
        there.encode(["a"], show_progress=True)
        assert "1/1" in capsys.readouterr().err
