"""Ollama's interface gives the embedder's vectors, in Ollama's words."""

import time

import numpy as np
import pytest

from akidb_mlx import Embedder, RerankerConfig
from support.checkpoints import PROMPTS, REFERENCE, RERANKERS
from support.comparison import assert_close
from support.serving import serving

TEXTS = ["A cat sleeps.", "", " spaces  kept \n\n newlines too\t", "日本語 🙂"]


@pytest.fixture(scope="module")
def server():
    models = {"m": REFERENCE / "bert-prompts", "other": REFERENCE / "bert-not-normalised"}
    with serving({**models, "ce": RerankerConfig(model=str(RERANKERS / "bert"))}) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def embedder():
    with Embedder.load(REFERENCE / "bert-prompts") as embedder:
        yield embedder


@pytest.mark.parametrize(
    ("name", "side"), [("m", None), ("m:latest", None), ("m:query", "query"), ("m:document", "document")]
)
def test_embed(client, embedder, name, side):
    expected = {None: embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}[side](
        TEXTS
    )
    answer = client.post("/api/embed", {"model": name, "input": TEXTS})
    assert answer.status == 200
    assert set(answer.json) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert answer.json["model"] == name
    assert_close(answer.json["embeddings"], expected)
    assert answer.json["total_duration"] > 0
    if side is None:
        assert answer.json["prompt_eval_count"] == sum(embedder.count_tokens(TEXTS))
    one = client.post("/api/embed", {"model": name, "input": TEXTS[0]})
    assert_close(one.json["embeddings"], expected[:1])
    old = client.post("/api/embeddings", {"model": name, "prompt": TEXTS[0], "options": {}, "keep_alive": "5m"})
    assert set(old.json) == {"embedding"}
    assert_close(old.json["embedding"], expected[0])


def test_what_is_optional_may_be_null(client, embedder):
    names = ("options", "truncate", "dimensions", "keep_alive", "input_type")
    answer = client.post("/api/embed", {"model": "m", "input": TEXTS, **dict.fromkeys(names)})
    assert_close(answer.json["embeddings"], embedder.encode(TEXTS))
    options = {"num_ctx": None, "temperature": 0.0, "num_gpu": 1, "stop": ["x"]}
    answer = client.post("/api/embed", {"model": "m", "input": TEXTS, "options": options, "keep_alive": -1})
    assert_close(answer.json["embeddings"], embedder.encode(TEXTS))


def test_dimensions_and_input_type(client, embedder):
    answer = client.post("/api/embed", {"model": "m", "input": TEXTS, "dimensions": 8, "input_type": "query"})
    assert_close(answer.json["embeddings"], embedder.encode_query(TEXTS, truncate_dim=8))
    assert len(client.post("/api/embed", {"model": "m", "input": "a", "dimensions": 0}).json["embeddings"][0]) == 16
    answer = client.post("/api/embed", {"model": "m", "input": "a", "dimensions": 17})
    assert (answer.status, answer.json["error"]) == (400, "dimensions is 17; m has 1 to 16 dimensions")


def test_no_text_loads_the_model(client, server):
    assert "other" not in [model.name for model in server.state.models.loaded]
    for body in ({"model": "other"}, {"model": "other", "input": []}, {"model": "other", "input": None}):
        answer = client.post("/api/embed", body)
        assert (answer.status, answer.json["embeddings"]) == (200, [])
    assert client.post("/api/embeddings", {"model": "other"}).json == {"embedding": []}
    assert "other" in [model.name for model in server.state.models.loaded]


def test_long_texts_are_cut_or_refused_in_words_that_clients_know(client, embedder):
    long = "long " * 100
    cut = client.post("/api/embed", {"model": "m", "input": long, "truncate": True})
    assert_close(cut.json["embeddings"], embedder.encode([long]))
    for more in ({"truncate": False}, {"options": {"num_ctx": 10}}):
        answer = client.post("/api/embed", {"model": "m", "input": ["short", long], **more})
        assert answer.status == 400
        assert "the input length exceeds the context length" in answer.json["error"]
    assert client.post("/api/embed", {"model": "m", "input": "short", "options": {"num_ctx": 10}}).status == 200
    assert client.post("/api/embed", {"model": "m", "input": long, "options": {"num_ctx": 48}}).status == 200


def test_errors_are_texts(client):
    for path, body, status, message in (
        ("/api/embed", {"model": "nope", "input": "a"}, 404, "there is m, other, ce"),
        ("/api/embed", {"model": "ce", "input": "a"}, 400, "'ce' is a reranker"),
        ("/api/embed", {"model": "m", "input": 3}, 400, "a text or a list of texts"),
        ("/api/embed", {"model": "m", "input": ["a", None]}, 400, "input.1"),
        ("/api/embed", {"input": "a"}, 400, "model"),
        ("/api/show", {"verbose": True}, 400, "model is required"),
        ("/api/generate", {"model": "m", "prompt": "a"}, 404, "it writes no text"),
    ):
        answer = client.post(path, body)
        assert answer.status == status
        assert message in answer.json["error"]
        assert answer.json["error"] == answer.error["message"]


def test_tags_list_the_embedders_under_all_their_names(client, embedder):
    client.post("/api/embed", {"model": "m"})
    models = client.get("/api/tags").json["models"]
    assert [model["name"] for model in models] == [
        f"{name}:{tag}" for name in ("m", "other") for tag in ("latest", "query", "document")
    ]
    first = models[0]
    assert (first["model"], first["digest"], first["details"]["family"]) == ("m:latest", embedder.fingerprint, "bert")
    assert first["size"] > 0


def test_show_and_version(client, embedder):
    for body in ({"model": "m:latest"}, {"name": "m"}, {"model": "m", "name": "m", "verbose": False}):
        shown = client.post("/api/show", body).json
        assert shown["capabilities"] == ["embedding"]
        assert shown["model_info"]["bert.embedding_length"] == embedder.dimension
        assert shown["model_info"]["bert.context_length"] == 48
    assert client.get("/api/version").json["version"].count(".") == 2


def test_numbers_give_back_the_same_float32(client, embedder):
    answer = client.post("/api/embed", {"model": "m", "input": ["a"]})
    again = client.post("/v1/embeddings", {"model": "m", "input": ["a"]})
    numbers = answer.json["embeddings"][0]
    assert np.float32(numbers).tolist() == np.float32(again.json["data"][0]["embedding"]).tolist()


@pytest.mark.parametrize("seconds", [1e300, 9.3e9, "999999999h"])
def test_a_time_beyond_all_clocks_is_for_ever(seconds):
    with serving({"m": PROMPTS}) as running, running.client() as client:
        for _ in range(3):
            answer = client.post("/api/embed", {"model": "m", "input": ["a text"], "keep_alive": seconds})
            assert answer.status == 200, answer.body
        time.sleep(0.3)  # what fails is a thread that waits
        assert client.get("/health").json["worker"] is True
        until_when = client.get("/api/ps").json["models"][0]["expires_at"]
        assert int(until_when[:4]) > 2300 or seconds == 9.3e9
