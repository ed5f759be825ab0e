"""Tasks beyond the embedder: the server, the frameworks' classes, pickles, the corpus's recipe, Hub downloads."""

import pickle

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig, RemoteEmbedder, errors
from akidb_mlx.checkpoint.needed_files import needed_files
from akidb_mlx.recipe import recipe_of
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from llama_index_akidb_mlx import AkiDBMLXEmbedding
from support.checkpoints import TASKS, read_task_case
from support.comparison import assert_close
from support.serving import serving

V3, V5 = TASKS / "jina-v3", TASKS / "jina-v5-nano"
EXACT = {"dtype": "float32"}


@pytest.mark.parametrize(
    ("folder", "task", "query", "document"),
    [
        (V3, None, "query retrieval.query", "document retrieval.passage"),
        (V3, "retrieval", "query retrieval.query", "document retrieval.passage"),
        (V3, "text-matching", "query text-matching", "document text-matching"),
        (V5, "retrieval", "query retrieval", "document retrieval"),
        (V5, "clustering", "query clustering", "document clustering"),
    ],
)
def test_both_frameworks_take_the_task(folder, task, query, document):
    _, facts, arrays = read_task_case(folder.name)
    texts = facts["texts"]
    langchain = AkiDBMLXEmbeddings(model=folder, task=task, **EXACT)
    llama_index = AkiDBMLXEmbedding(model_name=str(folder), task=task, **EXACT)
    assert_close(langchain.embed_documents(texts), arrays[document], 1e-5)
    assert_close(langchain.embed_query(texts[2]), arrays[query][2], 1e-5)
    assert_close(llama_index.get_text_embedding_batch(texts), arrays[document], 1e-5)
    assert_close(llama_index.get_query_embedding(texts[2]), arrays[query][2], 1e-5)
    assert llama_index.to_dict()["task"] == task
    again = pickle.loads(pickle.dumps(langchain))
    assert again.task == task
    assert_close(again.embed_query(texts[2]), arrays[query][2], 1e-5)


def test_the_recipe_tells_the_task():
    with Embedder.load(V3) as plain, Embedder.load(V3, task="text-matching") as matching:
        one, other = recipe_of(plain), recipe_of(matching)
    assert one["fingerprint"] != other["fingerprint"]
    assert one["side_tasks"] == {"query": "retrieval.query", "document": "retrieval.passage"}
    assert (other["task"], other["side_tasks"]) == (
        "text-matching",
        {"query": "text-matching", "document": "text-matching"},
    )


def test_the_server_takes_jinas_task_and_sides():
    _, facts, v3 = read_task_case("jina-v3")
    v5 = read_task_case("jina-v5-nano")[2]
    texts, v5_texts = facts["texts"], read_task_case("jina-v5-nano")[1]["texts"]
    models = {
        "v3": EmbedderConfig(model=V3, **EXACT),
        "v5": EmbedderConfig(model=V5, task="retrieval", **EXACT),
    }
    with serving(models) as server, server.client() as client:

        def rows(texts, model, **more):
            answer = client.embed(texts, model, **more)
            assert answer.status == 200, answer.body
            return np.array([item["embedding"] for item in answer.json["data"]])

        assert_close(rows(texts, "v3"), v3["encode"], 1e-5)
        assert_close(rows(texts, "v3", input_type="query"), v3["query retrieval.query"], 1e-5)
        assert_close(rows(texts, "v3:passage"), v3["document retrieval.passage"], 1e-5)
        assert_close(rows(texts, "v3", task="retrieval.query"), v3["query retrieval.query"], 1e-5)
        assert_close(rows(texts, "v3", task="separation"), v3["encode separation"], 1e-5)
        assert_close(rows(v5_texts, "v5", task="retrieval.query"), v5["query retrieval"], 1e-5)
        assert_close(rows(v5_texts, "v5", task="clustering"), v5["encode clustering"], 1e-5)
        unknown = client.embed(texts, "v3", task="clustering")
        assert (unknown.status, "has no task 'clustering'" in unknown.error["message"]) == (400, True)
        contrary = client.embed(texts, "v3", task="retrieval.query", input_type="document")
        assert (contrary.status, "is not for what is a document" in contrary.error["message"]) == (400, True)


def test_a_remote_embedder_has_the_task_of_its_settings():
    _, facts, arrays = read_task_case("jina-v3")
    texts = facts["texts"]
    with (
        serving({"v3": EmbedderConfig(model=V3, **EXACT)}) as server,
        RemoteEmbedder.load("v3", base_url=server.url) as remote,
        remote.with_settings(task="separation") as separating,
    ):
        assert_close(remote.encode(texts), arrays["encode"], 1e-5)
        assert_close(remote.encode_query(texts), arrays["query retrieval.query"], 1e-5)
        assert_close(separating.encode(texts), arrays["encode separation"], 1e-5)
        with pytest.raises(errors.AkiDBMLXError, match="task"):
            remote.encode(texts, task="separation")


def test_adapters_are_fetched_with_the_weights():
    """Of the revision that the weights are of, for they are files of the same snapshot."""
    names = {str(file.relative_to(V5)) for file in V5.rglob("*") if file.is_file()}
    needed = needed_files(V5, names | {"onnx/model.onnx", "adapters/notes.txt"})
    wanted = {name for name in names if name.startswith("adapters/") and "README" not in name}
    assert wanted and wanted <= set(needed)
    assert not {"onnx/model.onnx", "adapters/notes.txt"} & set(needed)
    other = TASKS.parent / "bert-mean"  # beside a model that reads none they are somebody else's
    assert not [name for name in needed_files(other, {"config.json", "x/adapter_config.json"}) if name.startswith("x")]
