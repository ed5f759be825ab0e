"""What clients of other servers send beside their texts: harmless fields are taken, others refused in plain words."""

import numpy as np
import pytest

from akidb_mlx import Embedder, RerankerConfig
from support.checkpoints import PROMPTS, REFERENCE
from support.comparison import assert_close
from support.serving import serving

LONG = "word " * 100


@pytest.fixture(scope="module")
def server():
    pairs = RerankerConfig(model=REFERENCE / "rerankers" / "bert")
    with serving({"prompts": PROMPTS, "pairs": pairs}) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.mark.parametrize(
    "beside",
    [
        {"user": "me", "metadata": {"trace": "7"}, "priority": 0, "stream": False},
        {"user": None, "metadata": None, "priority": None, "stream": None, "truncate": None},
        {"truncate": "END"},
        {"truncate": "end", "encoding_format": "float"},
    ],
)
def test_fields_that_change_nothing_are_taken(client, beside):
    answer = client.post("/v1/embeddings", {"input": ["a text", LONG], "model": "prompts", **beside})
    assert answer.status == 200, answer.body
    rows = np.array([one["embedding"] for one in answer.json["data"]], np.float32)
    with Embedder.load(PROMPTS) as embedder:
        assert_close(rows, embedder.encode(["a text", LONG]))
    pairs = {"query": "a", "documents": ["b", LONG], **{k: v for k, v in beside.items() if k != "encoding_format"}}
    assert client.post("/v1/rerank", pairs).status == 200


@pytest.mark.parametrize("said", ["NONE", "none", False])
def test_none_refuses_what_is_too_long(client, said):
    answer = client.post("/v1/embeddings", {"input": ["a", LONG], "truncate": said})
    assert answer.status == 400 and "more than 48 tokens" in answer.json["error"]["message"]
    assert client.post("/v1/embeddings", {"input": ["a"], "truncate": said}).status == 200
    answer = client.post("/v1/rerank", {"query": "a", "documents": ["b", LONG], "truncate": said})
    assert answer.status == 400 and "tokens" in answer.json["message"]


@pytest.mark.parametrize(
    ("word", "side"),
    [("passage", "document"), ("search_document", "document"), ("search_query", "query"), ("query", "query")],
)
def test_other_words_for_the_sides(client, word, side):
    answer = client.post("/v1/embeddings", {"input": "a text", "input_type": word})
    with Embedder.load(PROMPTS) as embedder:
        expected = embedder.encode_query(["a text"]) if side == "query" else embedder.encode_document(["a text"])
    assert_close(np.array([answer.json["data"][0]["embedding"]], np.float32), expected)


def test_a_whole_number_with_a_point_is_one(client):
    answer = client.post("/v1/embeddings", {"input": "a text", "dimensions": 8.0})
    assert answer.status == 200 and len(answer.json["data"][0]["embedding"]) == 8
    assert client.post("/v1/embeddings", {"input": "a text", "dimensions": 8.5}).status == 400
    answer = client.post("/v1/rerank", {"query": "a", "documents": ["b", "c"], "top_n": 1.0})
    assert answer.status == 200 and len(answer.json["results"]) == 1


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"stream": True}, "stream: an answer comes whole; leave stream out"),
        ({"stream": 0}, "stream: should be a valid boolean"),
        ({"truncate": "START"}, "truncate: START is not done, texts are cut at the end; send END, NONE, true or false"),
        ({"truncate": "middle"}, "truncate: should be a valid boolean"),
        ({"dimension": 8}, "unknown field 'dimension'; did you mean dimensions?"),
        ({"late_chunking": True}, "unknown field 'late_chunking'"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_what_cannot_be_done_is_refused_in_plain_words(client, path, beside, says):
    body = {"input": "a"} if path == "/v1/embeddings" else {"query": "a", "documents": ["b"]}
    answer = client.post(path, {**body, **beside})
    said = answer.json["error"]["message"]
    assert answer.status == 400 and answer.json["error"]["param"] == next(iter(beside))
    assert said == says or (path == "/v1/rerank" and said.startswith("unknown field 'dimension'"))
