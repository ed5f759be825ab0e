"""What both adapters share: the imports, one load for both, and an index that knows its recipe."""

import asyncio
import json
import sqlite3
import subprocess
import sys

import pytest
from pydantic import BaseModel

from akidb_mlx import Embedder, HybridEmbedder, MultiVectorEmbedder, SparseEmbedder, errors
from akidb_mlx.recipe import RECIPE_FILE, recipe_of
from akidb_mlx.testing import FakeEmbedder
from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker
from langchain_akidb_mlx import check_recipe as langchain_check_recipe
from llama_index_akidb_mlx import (
    AkiDBMLXEmbedding,
    AkiDBMLXRerank,
    AkiDBMLXSparseEmbedding,
    check_recipe,
    ensure_recipe,
    recipe_metadata,
    save_recipe,
)
from support.checkpoints import MINILM, PROMPTS, REFERENCE
from support.comparison import assert_close
from support.joint import make_joint_folder

TEXTS = ["Vectors are compared by their angle.", "A cat sleeps on the warm windowsill.", "Bread rises."]


@pytest.mark.parametrize("adapter", ["langchain_akidb_mlx", "llama_index_akidb_mlx"])
def test_importing_an_adapter_is_quiet_and_light(adapter):
    code = (
        f"import sys, {adapter}; heavy = ('mlx.core', 'mlx_lm', 'transformers', 'torch', 'langchain_qdrant'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_both_adapters_give_the_same_vectors_from_one_load(loads):
    options = {"model": PROMPTS, "truncate_dim": 16, "max_batch_tokens": 4011}
    langchain, llama_index = AkiDBMLXEmbeddings(**options), AkiDBMLXEmbedding(**options)
    rows = langchain.embed_documents(TEXTS)
    assert_close(rows, llama_index.get_text_embedding_batch(TEXTS))
    assert_close(langchain.embed_query("x"), llama_index.get_query_embedding("x"))
    assert len(loads) == 1


def test_every_option_of_the_configuration_is_an_option_of_both_adapters():
    from akidb_mlx import EmbedderConfig

    for adapter in (AkiDBMLXEmbeddings, AkiDBMLXEmbedding):
        missing = set(EmbedderConfig.model_fields) - set(adapter.model_fields) - {"model"}
        assert missing == set()
        shared = set(adapter.model_fields) & set(EmbedderConfig.model_fields)
        assert all(adapter.model_fields[name].description for name in shared)


def test_a_copy_takes_either_name_of_the_model():
    for adapter in (AkiDBMLXEmbeddings(model=PROMPTS), AkiDBMLXEmbedding(model_name=PROMPTS)):
        for name in ("model", "model_name"):
            assert f"model={MINILM!r}" in str(adapter.model_copy(update={name: MINILM}))


# ── an index that knows its recipe ───────────────────────────────────────────────────────────────────


def adapters(**options):
    return AkiDBMLXEmbeddings(model=PROMPTS, **options), AkiDBMLXEmbedding(model_name=PROMPTS, **options)


def test_a_new_index_gets_the_recipe_and_the_same_one_opens_it_again(tmp_path):
    langchain, llama_index = adapters()
    ensure_recipe(tmp_path / "index", langchain)
    ensure_recipe(tmp_path / "index", llama_index)
    with Embedder.load(PROMPTS, max_batch_tokens=77) as embedder:
        ensure_recipe(tmp_path / "index", embedder)
    stored = json.loads((tmp_path / f"index.{RECIPE_FILE}").read_text())
    assert stored == recipe_of(langchain)
    assert stored["pooling"] == "mean"
    assert stored["dimension"] == langchain.load().dimension
    assert [file.name for file in tmp_path.iterdir()] == [f"index.{RECIPE_FILE}"]
    ensure_recipe(tmp_path / "other", langchain, make_folder=True)
    assert [file.name for file in (tmp_path / "other").iterdir()] == [RECIPE_FILE]


def test_an_index_whose_folder_is_asked_for_first(tmp_path):
    """`if not exists: build, save; else: load` goes on working, whatever comes between."""
    embeddings, folder = adapters()[0], tmp_path / "index"
    for run in ("first", "died half-way", "second"):
        ensure_recipe(folder, embeddings)
        assert folder.exists() == (run == "second")
        if run == "died half-way":
            folder.mkdir()
            (folder / "docstore.json").write_text("{}")
    with pytest.raises(errors.ConfigError, match="pooling 'mean' → 'cls'"):
        ensure_recipe(folder, adapters(pooling="cls")[0])
    save_recipe(folder, adapters(pooling="cls")[0])  # it replaces what lies beside
    ensure_recipe(folder, adapters(pooling="cls")[0])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index", f"index.{RECIPE_FILE}"]


def test_an_outputs_recipe_is_compared_by_what_both_say():
    """A file that `akidb-mlx embed` wrote tells more of its run and less of the model."""
    embeddings = adapters()[0]
    kept = {"model_name", "revision", "pooling", "normalize", "dimension", "max_seq_length", "fingerprint"}
    made = {name: value for name, value in recipe_of(embeddings).items() if name in kept}
    made |= {"version": 1, "text_column": "text", "inputs": {"files": 1}, "rows": 3000, "similarity": "cosine"}
    check_recipe(made, embeddings, "texts.parquet")
    with pytest.raises(errors.ConfigError) as caught:
        check_recipe(made, adapters(pooling="cls")[1], "texts.parquet")
    assert "made with another recipe: pooling 'mean' → 'cls'. Searching" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truncate_dim": 8}, "dimension 16 → 8"),
        ({"pooling": "cls"}, "pooling 'mean' → 'cls'"),
        ({"document_prompt": "d: "}, "document_prompt None → 'd: '"),
        ({"normalize": False}, "normalize True → False"),
        ({"max_seq_length": 9}, "max_seq_length 48 → 9"),
        ({"dtype": "bfloat16"}, "dtype None → 'bfloat16'"),
    ],
)
def test_another_recipe_is_refused_with_what_differs(tmp_path, options, said):
    ensure_recipe(tmp_path, adapters()[0])
    for other in adapters(**options):
        with pytest.raises(errors.ConfigError) as caught:
            ensure_recipe(tmp_path, other)
        assert said in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    ensure_recipe(tmp_path, adapters()[1])  # the refusal changed nothing


def test_other_weights_under_the_same_name_are_noticed(tmp_path):
    ensure_recipe(tmp_path, AkiDBMLXEmbeddings(model=REFERENCE / "bert-mean"))
    with pytest.raises(errors.ConfigError, match=r"model_name '.*bert-mean' → '.*bert-minilm-like'"):
        ensure_recipe(tmp_path, AkiDBMLXEmbeddings(model=REFERENCE / "bert-minilm-like"))
    stored = json.loads((tmp_path / RECIPE_FILE).read_text()) | {"fingerprint": "0" * 64}
    (tmp_path / RECIPE_FILE).write_text(json.dumps(stored))
    with pytest.raises(errors.ConfigError, match="the same settings, but other weights, tokenizer or architecture"):
        ensure_recipe(tmp_path, AkiDBMLXEmbeddings(model=REFERENCE / "bert-mean"))


def test_an_index_of_unknown_recipe_is_refused_until_it_is_vouched_for(tmp_path):
    (tmp_path / "index.faiss").write_bytes(b"vectors")
    embeddings = adapters()[0]
    with pytest.raises(errors.ConfigError, match=r"holds files, but no akidb_mlx_recipe\.json"):
        ensure_recipe(tmp_path, embeddings)
    save_recipe(tmp_path, embeddings)
    ensure_recipe(tmp_path, embeddings)


def test_a_store_that_is_one_file_has_its_recipe_beside_it(tmp_path):
    embeddings, other = adapters()[0], adapters(pooling="cls")[0]
    file = tmp_path / "new.db"
    ensure_recipe(file, embeddings)
    sqlite3.connect(file).execute("create table t (x)").connection.close()
    ensure_recipe(file, embeddings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.db", f"new.db.{RECIPE_FILE}"]
    with pytest.raises(errors.ConfigError, match=r"new\.db were made with another recipe: pooling 'mean' → 'cls'"):
        ensure_recipe(file, other)
    unknown = tmp_path / "old.db"
    sqlite3.connect(unknown).execute("create table t (x)").connection.close()
    with pytest.raises(errors.ConfigError, match="recipe_metadata"):
        ensure_recipe(unknown, embeddings)
    save_recipe(unknown, embeddings)
    ensure_recipe(unknown, embeddings)


def test_a_store_that_makes_its_folder_itself_has_its_recipe_beside_it(tmp_path):
    folder, embeddings = tmp_path / "index", adapters()[0]
    ensure_recipe(folder, embeddings, make_folder=False)
    folder.mkdir()  # as the store does
    (folder / "data").write_bytes(b"vectors")
    ensure_recipe(folder, embeddings)
    with pytest.raises(errors.ConfigError, match="pooling 'mean' → 'cls'"):
        ensure_recipe(folder, adapters(pooling="cls")[1], make_folder=False)


@pytest.mark.parametrize("torn", ["", "{", "[]", '"text"', "{}", "null"])
def test_a_torn_recipe_is_an_error(tmp_path, torn):
    (tmp_path / RECIPE_FILE).write_text(torn)
    with pytest.raises(errors.ConfigError, match=r"does not say with which recipe|cannot be read"):
        ensure_recipe(tmp_path, adapters()[0])


def test_the_recipe_as_metadata_of_a_collection():
    langchain, llama_index = adapters()
    metadata = {"hnsw:space": "cosine", **recipe_metadata(langchain)}
    assert set(metadata) == {"hnsw:space", "akidb_mlx"}
    langchain_check_recipe(metadata, llama_index)
    check_recipe(metadata["akidb_mlx"], llama_index)
    check_recipe({b"akidb_mlx": metadata["akidb_mlx"].encode()}, langchain)  # Arrow's
    with pytest.raises(errors.ConfigError, match="the vectors of collection news were made with another recipe"):
        check_recipe(metadata, adapters(pooling="cls")[1], "collection news")
    for nothing in (None, {}, {"hnsw:space": "cosine"}, ""):
        with pytest.raises(errors.ConfigError, match="collection news does not say with which recipe"):
            check_recipe(nothing, langchain, "collection news")


def test_an_embedder_of_ones_own_has_a_recipe_too(tmp_path):
    ensure_recipe(tmp_path, AkiDBMLXEmbeddings(embedder=FakeEmbedder(8)))
    ensure_recipe(tmp_path, FakeEmbedder(8))
    with pytest.raises(errors.ConfigError, match="dimension 8 → 4"):
        ensure_recipe(tmp_path, AkiDBMLXEmbedding(embedder=FakeEmbedder(4)))


# ── an index of several forms of rows ────────────────────────────────────────────────────────────────


def test_an_index_of_dense_and_sparse_rows_has_one_recipe(tmp_path):
    m3 = make_joint_folder(tmp_path)
    dense, sparse = AkiDBMLXEmbeddings(model=m3), AkiDBMLXSparseEmbedding(model_name=m3)
    ensure_recipe(tmp_path / "index", [dense, sparse])
    ensure_recipe(
        tmp_path / "index", (AkiDBMLXEmbedding(model_name=m3), AkiDBMLXSparseEmbedding(embedder=sparse.load()))
    )
    stored = json.loads((tmp_path / f"index.{RECIPE_FILE}").read_text())
    assert [part.get("kind") for part in stored["parts"]] == [None, "sparse"]
    for others, said in (
        ([dense, AkiDBMLXSparseEmbedding(model_name=m3, max_active_dims=9)], "sparse: max_active_dims None → 9. "),
        ([AkiDBMLXEmbeddings(model=m3, truncate_dim=8), sparse], "dense: dimension 32 → 8. "),
        ([dense], "dense and sparse rows → dense rows. "),
        ([sparse, dense], "dense and sparse rows → sparse and dense rows. "),
        (sparse, "dense and sparse rows → sparse rows. "),
    ):
        with pytest.raises(errors.ConfigError) as caught:
            ensure_recipe(tmp_path / "index", others)
        assert f"made with another recipe: {said}" in str(caught.value)


def test_multi_vector_and_hybrid_rows_have_recipes(tmp_path):
    m3 = make_joint_folder(tmp_path)
    with HybridEmbedder.load(m3) as hybrid, MultiVectorEmbedder.load(m3, token_pooling=2) as pooled:
        metadata = recipe_metadata(hybrid)
        assert recipe_of(hybrid)["fingerprint"] == hybrid.fingerprint
        check_recipe(metadata, [hybrid.dense, hybrid.sparse, hybrid.multi])
        with pytest.raises(errors.ConfigError, match="multi_vector: token_pooling None → "):
            check_recipe(metadata, [hybrid.dense, hybrid.sparse, pooled])
        with pytest.raises(errors.ConfigError, match="another recipe: dense rows → multi_vector rows"):
            check_recipe(recipe_metadata(hybrid.dense), pooled)
        with SparseEmbedder.load(m3, query_prompt="q: ") as prompted:
            with pytest.raises(errors.ConfigError, match="query_prompt None → 'q: '"):
                check_recipe(recipe_metadata(hybrid.sparse), prompted)


# ── an embedder that cannot load ─────────────────────────────────────────────────────────────────────


async def test_a_failed_load_fails_each_waiter_and_may_be_tried_again(monkeypatch):
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, max_batch_tokens=4012)
    load = Embedder.load

    def broken(*given):
        raise errors.BackendError("no device today")

    monkeypatch.setattr(Embedder, "load", broken)
    results = await asyncio.gather(*(embeddings.aembed_query("x") for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {errors.BackendError}
    monkeypatch.setattr(Embedder, "load", load)
    assert len(await embeddings.aembed_query("x")) == embeddings.load().dimension


def test_minilm_through_both_adapters_is_the_same_recipe(minilm):
    recipes = [recipe_of(each) for each in (AkiDBMLXEmbeddings(model=MINILM), AkiDBMLXEmbedding(model=MINILM), minilm)]
    assert recipes[0] == recipes[1] == recipes[2]
    assert recipes[0]["fingerprint"] == minilm.fingerprint


# ── as pydantic models ───────────────────────────────────────────────────────────────────────────────

CLASSES = [AkiDBMLXEmbeddings, AkiDBMLXEmbedding, AkiDBMLXReranker, AkiDBMLXRerank, AkiDBMLXSparseEmbedding]


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_they_have_a_json_schema(kind, mode):
    schema = kind.model_json_schema(mode=mode)
    fields = schema.get("properties", {})  # LlamaIndex's serialise as what its own function gives
    assert "embedder" not in fields and "reranker" not in fields
    assert "max_seq_length" in fields or mode == "serialization"

    class Settings(BaseModel):
        model: kind

    assert kind.__name__ in Settings.model_json_schema(mode=mode)["$defs"]


def test_fastapis_openapi():
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    @app.post("/settings")
    def settings(settings: AkiDBMLXEmbeddings) -> str:
        return settings.model

    assert "AkiDBMLXEmbeddings" in json.dumps(app.openapi())


@pytest.mark.parametrize("kind", [AkiDBMLXEmbeddings, AkiDBMLXEmbedding], ids=lambda kind: kind.__name__)
def test_copies_of_what_has_a_fake(kind):
    fake, own = FakeEmbedder(8), {AkiDBMLXEmbeddings: "show_progress", AkiDBMLXEmbedding: "embed_batch_size"}[kind]
    made = kind(embedder=fake)
    copied = made.model_copy(update={own: 1})
    assert copied.load() is fake and copied.embedder is fake and getattr(copied, own) == 1 != getattr(made, own)
    other = made.model_copy(update={"embedder": FakeEmbedder(4), own: 1})
    assert other.load().dimension == 4 and getattr(other, own) == 1
    assert kind(model=PROMPTS).model_copy(update={"embedder": fake}).load() is fake
    with pytest.raises(
        errors.ConfigError, match="embedder= brings its own settings; to change truncate_dim give another"
    ):
        made.model_copy(update={"truncate_dim": 4})
    with pytest.raises(TypeError, match="embedder is no embedder"):
        made.model_copy(update={"embedder": "fake"})


def test_both_names_of_the_model_are_there():
    langchain, llama_index = adapters()
    assert langchain.model == langchain.model_name == llama_index.model == llama_index.model_name == str(PROMPTS)
    assert "model" not in llama_index.to_dict() and "model_name" not in AkiDBMLXEmbeddings.model_fields


@pytest.mark.slow
def test_type_checkers_take_what_is_documented(tmp_path):
    user = tmp_path / "user.py"
    user.write_text(
        "from pathlib import Path\n"
        "from langchain_akidb_mlx import AkiDBMLXEmbeddings\n"
        "from llama_index_akidb_mlx import AkiDBMLXEmbedding\n"
        'for name in ("m", Path("m")):\n'
        "    AkiDBMLXEmbeddings(model=name, truncate_dim=8)\n"
        "    AkiDBMLXEmbeddings(model_name=name, normalize=True)\n"
        "    AkiDBMLXEmbedding(model=name, embed_batch_size=5)\n"
        "    AkiDBMLXEmbedding(model_name=name)\n"
        "    AkiDBMLXEmbeddings(modle=name)  # refused\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(user)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    errors_ = [line for line in done.stdout.splitlines() if "user.py" in line and "error" in line]
    assert len(errors_) == 1 and 'Unexpected keyword argument "modle"' in errors_[0], done.stdout
