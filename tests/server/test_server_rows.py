"""Our own routes over plain HTTP: the bytes of the rows, the headers that describe them, what is refused."""

import json

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig, Reranker, RerankerConfig, SparseConfig, SparseEmbedder
from akidb_mlx.errors import CheckpointError
from support.checkpoints import PROMPTS, REFERENCE, TINY_RERANKER, read_case
from support.comparison import assert_close
from support.serving import serving

FROM_REFERENCE = 1e-5


@pytest.fixture(scope="module")
def server():
    models = {
        "p": PROMPTS,
        "mean": REFERENCE / "bert-mean",
        "r": RerankerConfig(model=TINY_RERANKER),
        "splade": SparseConfig(model=REFERENCE / "sparse" / "bert-max"),
    }
    with serving(models, max_texts=50) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def rows_of(answer):
    """The first array, read as docs/server.md says it."""
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/octet-stream"
    name, dtype, *sizes = answer.headers["X-Akidb-Arrays"].split("; ")[0].split()
    assert name in ("rows", "indptr")
    count = int(np.prod([int(size) for size in sizes]))
    return np.frombuffer(answer.body, np.dtype(dtype).newbyteorder("<"), count).reshape([int(size) for size in sizes])


def test_rows_are_the_references_numbers_as_bytes(client):
    _, facts, arrays = read_case("bert-mean")
    texts = facts["texts"]
    answer = client.post("/api/v1/rows", {"model": "mean", "texts": texts})
    found = rows_of(answer)
    expected = next(array for array in arrays.values() if array.shape == found.shape)
    assert_close(found, expected, FROM_REFERENCE)
    assert len(answer.body) == found.size * 4
    with Embedder.load(REFERENCE / "bert-mean") as here:
        assert answer.headers["X-Akidb-Fingerprint"] == here.fingerprint
        assert int(answer.headers["X-Akidb-Tokens"]) == sum(here.count_tokens(texts))
        one = client.post("/api/v1/rows", {"model": "mean", "texts": ["tea"]})
        assert rows_of(one).tobytes() == here.encode(["tea"]).tobytes()


def test_sides_prompts_and_settings(client):
    with Embedder.load(PROMPTS, truncate_dim=8, query_prompt="q: ") as here:
        asked = {"texts": ["tea"], "settings": {"truncate_dim": 8, "query_prompt": "q: "}}
        answer = client.post("/api/v1/rows", {**asked, "input_type": "query"})
        assert rows_of(answer).tobytes() == here.encode_query(["tea"]).tobytes()
        assert answer.headers["X-Akidb-Fingerprint"] == here.fingerprint
        assert answer.headers["X-Akidb-Truncated-Texts"] == "0"
        assert {"X-Akidb-Dimension", "X-Akidb-Max-Seq-Length"}.isdisjoint(answer.headers)
        cut = client.post("/api/v1/rows", {**asked, "texts": ["word " * 100]}).headers
        assert (cut["X-Akidb-Truncated-Texts"], cut["X-Akidb-Max-Seq-Length"]) == ("1", "48")
        named = client.post("/api/v1/rows", {**asked, "model": "p:query"})
        assert named.body == answer.body
        own = client.post("/api/v1/rows", {**asked, "prompt": "x: ", "truncate_dim": 3, "normalize": False})
        assert rows_of(own).tobytes() == here.encode(["tea"], prompt="x: ", truncate_dim=3, normalize=False).tobytes()


def test_scores_and_sparse_rows(client):
    with Reranker.load(TINY_RERANKER) as here:
        asked = {"kind": "reranker", "pairs": [["engine", "a train"]]}
        answer = client.post("/api/v1/rows", asked)
        assert rows_of(answer).tobytes() == here.predict([("engine", "a train")]).tobytes()
        assert answer.headers["X-Akidb-Arrays"] == "rows float32 1"
        raw = client.post("/api/v1/rows", {**asked, "activation": "identity"})
        assert rows_of(raw).tobytes() == here.predict([("engine", "a train")], activation="identity").tobytes()
    with SparseEmbedder.load(REFERENCE / "sparse" / "bert-max") as here:
        answer = client.post("/api/v1/rows", {"kind": "sparse", "texts": ["a train"], "max_active_dims": 5})
        rows = here.encode(["a train"], max_active_dims=5)
        assert answer.headers["X-Akidb-Arrays"] == "indptr int64 2; indices int32 5; values float32 5"
        assert answer.body == rows.indptr.tobytes() + rows.indices.tobytes() + rows.values.tobytes()
        assert answer.headers["X-Akidb-Dimension"] == str(here.dimension)


def test_texts_without_a_row_stand_in_the_answer_where_that_is_asked(client):
    asked = {"texts": ["a", "word " * 100, "b"], "on_overlong": "error", "first": 10}
    refused = client.post("/api/v1/rows", asked)
    assert refused.status == 400 and refused.headers["X-Akidb-Error"] == "InputError"
    assert refused.error["message"].startswith("text 11 has more than 48 tokens")
    answer = client.post("/api/v1/rows", {**asked, "partial": True})
    rows = rows_of(answer)
    assert np.isnan(rows[1]).all() and np.isfinite(rows[[0, 2]]).all()
    name, dtype, size = answer.headers["X-Akidb-Arrays"].split("; ")[1].split()
    assert (name, dtype) == ("errors", "uint8")
    told = json.loads(answer.body[-int(size) :])
    assert told == {"11": ["InputError", refused.error["message"], None]}


def test_tokens_are_counted(client):
    with Embedder.load(PROMPTS) as here:
        answer = client.post("/api/v1/tokens", {"texts": ["a", "word " * 100], "prompt": "ask: "})
        assert answer.json["tokens"] == here.count_tokens(["a", "word " * 100], "ask: ")
        assert answer.json["fingerprint"] == here.fingerprint


def test_a_model_is_described(client):
    with Embedder.load(PROMPTS, truncate_dim=8) as here:
        said = client.post("/api/v1/describe", {"settings": {"truncate_dim": 8}}).json
        assert (said["model"], said["kind"], said["fingerprint"]) == ("p", "embedder", here.fingerprint)
        assert (said["dimension"], said["full_dimension"], said["max_seq_length"]) == (8, 16, 48)
        assert said["prompts"] == {
            "named": {"query": "search for: ", "document": "passage text: "},
            "default_name": None,
            "query": "search for: ",
            "document": "passage text: ",
        }
        assert said["limits"] == {"max_texts": 50, "max_request_bytes": 8 * 2**20, "max_request_tokens": 1_000_000}
        assert said["info"]["pooling"] == "mean" and said["info"]["truncate_dim"] == 8
    said = client.post("/api/v1/describe", {"kind": "reranker"}).json
    assert (said["num_labels"], said["dimension"]) == (1, None)


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        ({"texts": []}, 400, "texts: ", "texts"),
        ({"texts": "bare"}, 400, "texts: ", "texts"),
        ({}, 400, "kind embedder takes texts, and no pairs", None),
        ({"pairs": [["a", "b"]]}, 400, "kind embedder takes texts", None),
        ({"kind": "reranker", "texts": ["a"]}, 400, "kind reranker takes pairs", None),
        ({"kind": "reranker", "pairs": [["a"]]}, 400, "pairs.0", "pairs"),
        ({"kind": "reranker", "pairs": [["a", "b"]], "input_type": "query"}, 400, "no input_type", None),
        ({"texts": ["a"], "activation": "sigmoid"}, 400, "activation is for kind reranker", None),
        ({"texts": ["a"], "max_active_dims": 4}, 400, "max_active_dims is for kind sparse", None),
        ({"texts": ["a"], "odd": 1}, 400, "unknown field 'odd'", "odd"),
        ({"texts": ["a"], "truncate_dim": 17}, 400, "1 to 16 dimensions", None),
        ({"texts": ["a"], "prompt": "x", "input_type": "query"}, 400, "decides the prompt", None),
        ({"texts": ["a"] * 51}, 400, "at most 50 are taken", None),
        ({"texts": ["a"], "model": "nobody"}, 404, "no model is served as 'nobody'", "model"),
        ({"texts": ["a"], "model": "r"}, 400, "'r' is a reranker", "model"),
        ({"texts": ["a"], "settings": {"pooling": "cls"}}, 400, "served with pooling='mean', not 'cls'", "settings"),
        ({"texts": ["a"], "settings": {"model": "/etc"}}, 400, "model cannot be asked of a server", "settings"),
        ({"texts": ["a"], "settings": {"device": "cpu"}}, 400, "device cannot be asked", "settings"),
        ({"texts": ["a"], "settings": {"truncate_dim": "x"}}, 400, "truncate_dim = 'x'", "settings"),
        ({"texts": ["a"], "settings": {"truncate_dim": 99}}, 400, "1 to 16 dimensions", "settings"),
        ({"texts": ["a"], "fingerprint": "0"}, 409, "has the fingerprint", "fingerprint"),
    ],
    ids=str,
)
def test_what_is_refused(client, body, status, message, param):
    answer = client.post("/api/v1/rows", body)
    assert (answer.status, answer.error["param"]) == (status, param)
    assert message in answer.error["message"]


def test_settings_of_many_clients_are_kept_and_given_back(server, client):
    from akidb_mlx.server import variants

    served = next(model for model in server.state.models.loaded if model.name == "p")
    loaded = served.model._loaded
    for number in range(variants._KEPT + 10):
        answer = client.post("/api/v1/rows", {"texts": ["a"], "settings": {"query_prompt": f"{number}: "}})
        assert answer.status == 200
    assert len(served.variants._made) == variants._KEPT
    assert loaded.users <= variants._KEPT + 1
    again = client.post("/api/v1/rows", {"texts": ["a"], "settings": {"query_prompt": "0: "}, "input_type": "query"})
    with Embedder.load(PROMPTS, query_prompt="0: ") as here:
        assert rows_of(again).tobytes() == here.encode_query(["a"]).tobytes()


def test_a_shutdown_gives_all_of_them_back():
    with serving({"p": EmbedderConfig(model=PROMPTS, max_batch_tokens=4_003)}) as running, running.client() as client:
        for number in range(3):
            client.post("/api/v1/rows", {"texts": ["a"], "settings": {"query_prompt": f"{number}: "}})
        loaded = next(running.state.models.loaded).model._loaded
        assert loaded.users == 4
    assert loaded.users == 0


def test_why_a_model_cannot_be_loaded_is_named():
    def broken(config):
        raise CheckpointError("torn")

    with serving({"p": PROMPTS}, load=broken) as running, running.client() as client:
        for path, body in (("/api/v1/rows", {"texts": ["a"]}), ("/api/v1/describe", {})):
            answer = client.post(path, body)
            assert (answer.status, answer.headers["X-Akidb-Error"]) == (500, "CheckpointError")
            assert answer.error["message"] == "the model cannot be loaded: torn"
