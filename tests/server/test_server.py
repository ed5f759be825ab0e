"""The server: OpenAI's and AkiDB's endpoints give the embedder's vectors; what cannot be is refused in one shape."""

import asyncio
import base64
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig
from akidb_mlx.errors import CheckpointError, InputError, ModelNotFoundError
from akidb_mlx.pipeline.call import Usage
from akidb_mlx.server import Models, ServerSettings, models, monitoring, responses, turned_away
from akidb_mlx.server.middleware import Gate
from akidb_mlx.server.serve import listen
from akidb_mlx.server.state import State
from support.checkpoints import MINILM, REFERENCE
from support.comparison import assert_close, assert_unit_length
from support.device import held_device, unmeasured
from support.serving import Client, serving
from support.waiting import PATIENCE_S, until

TEXTS = ["A cat sleeps.", "Rates rise", "", " spaces  kept \n\n newlines too\t", "emoji 🙂 and 日本語", "nul \x00 byte"]


@pytest.fixture(scope="module")
def server():
    models = {
        "minilm": MINILM,
        "prompts": REFERENCE / "bert-prompts",
        "default": REFERENCE / "bert-default-prompt",
        "org/raw": REFERENCE / "bert-not-normalised",
        "last": REFERENCE / "bert-last-token",
    }
    with serving(models) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def embedders():
    names = {"prompts": "bert-prompts", "default": "bert-default-prompt", "org/raw": "bert-not-normalised"}
    loaded = {name: Embedder.load(REFERENCE / folder) for name, folder in names.items()}
    yield loaded
    for embedder in loaded.values():
        embedder.close()


def rows(answer):
    assert answer.status == 200, answer.body
    assert [item["index"] for item in answer.json["data"]] == list(range(len(answer.json["data"])))
    items = [item["embedding"] for item in answer.json["data"]]
    if isinstance(items[0], str):
        return np.array([np.frombuffer(base64.b64decode(item), "<f4") for item in items])
    return np.array(items, np.float32)


# vectors


@pytest.mark.parametrize("encoding_format", [None, "float", "base64"])
def test_the_vectors_are_the_embedders(client, minilm, encoding_format):
    more = {"encoding_format": encoding_format} if encoding_format else {}
    assert_close(rows(client.embed(TEXTS, "minilm", **more)), minilm.encode(TEXTS))


def test_a_single_text_gives_one_row(client, minilm):
    answer = client.embed("A cat sleeps.", "minilm", user="somebody")
    assert_close(rows(answer), minilm.encode(["A cat sleeps."]))
    assert answer.json["object"] == "list"
    assert answer.json["model"] == "minilm"
    assert answer.json["data"][0]["object"] == "embedding"


def test_base64_is_little_endian_float32(client, minilm):
    text = client.embed("A cat sleeps.", "minilm", encoding_format="base64").json["data"][0]["embedding"]
    assert_close(struct.unpack("<384f", base64.b64decode(text)), minilm.encode(["A cat sleeps."])[0])


def test_floats_give_back_the_same_float32(client, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(1, 384)).astype(np.float32)

    async def same(*args, **options):
        return vectors, Usage(1)

    monkeypatch.setattr(Embedder, "aencode_with_usage", same)
    for encoding_format in ("base64", "float"):
        assert (rows(client.embed(["a"], "minilm", encoding_format=encoding_format)) == vectors).all()


def test_many_texts_come_back_in_order(client, embedders):
    texts = [f"{'word ' * (i % 17)}number {i}" for i in range(2048)]
    for encoding_format in ("float", "base64"):
        answer = client.embed(texts, "prompts", encoding_format=encoding_format)
        assert_close(rows(answer), embedders["prompts"].encode(texts))


def test_tokens_are_counted_as_the_model_reads_them(client, minilm, embedders):
    usage = client.embed(TEXTS, "minilm").json["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] == sum(minilm.count_tokens(TEXTS))
    plain = client.embed("a query", "prompts").json["usage"]["total_tokens"]
    prompted = client.embed("a query", "prompts", input_type="query").json["usage"]["total_tokens"]
    assert prompted == embedders["prompts"].count_tokens(["a query"], "search for: ")[0] > plain
    assert client.embed("long " * 500, "prompts").json["usage"]["total_tokens"] == 48  # its limit


@pytest.mark.parametrize("dimensions", [1, 100, 384])
def test_dimensions_cut_and_normalise_again(client, minilm, dimensions):
    cut = rows(client.embed(TEXTS, "minilm", dimensions=dimensions, encoding_format="base64"))
    assert_close(cut, minilm.encode(TEXTS, truncate_dim=dimensions))
    assert_unit_length(cut)


def test_input_type_and_prompt_name_choose_the_prompt(client, embedders):
    embedder = embedders["prompts"]
    assert_close(rows(client.embed(TEXTS, "prompts")), embedder.encode(TEXTS))
    assert_close(rows(client.embed(TEXTS, "prompts", input_type="query")), embedder.encode_query(TEXTS))
    assert_close(rows(client.embed(TEXTS, "prompts", input_type="document")), embedder.encode_document(TEXTS))
    assert_close(rows(client.embed(TEXTS, "prompts", input_type="passage")), embedder.encode_document(TEXTS))
    assert_close(rows(client.embed(TEXTS, "prompts", prompt_name="query")), embedder.encode_query(TEXTS))
    assert_close(rows(client.embed(TEXTS, "default")), embedders["default"].encode(TEXTS))
    assert np.abs(embedder.encode_query(TEXTS) - embedder.encode(TEXTS)).max() > 0.01


def test_a_tag_of_the_models_name_says_the_side(client, embedders):
    embedder = embedders["prompts"]
    assert_close(rows(client.embed(TEXTS, "prompts:query")), embedder.encode_query(TEXTS))
    assert_close(
        rows(client.embed(TEXTS, "prompts:document", dimensions=8)), embedder.encode_document(TEXTS, truncate_dim=8)
    )
    assert_close(rows(client.embed(TEXTS, f"{REFERENCE / 'bert-prompts'}:Query")), embedder.encode_query(TEXTS))
    assert_close(rows(client.embed(TEXTS, "prompts:latest")), embedder.encode(TEXTS))
    assert client.embed("a", f"{MINILM}:query").status == 200  # a name with a colon of its own
    assert client.embed(["a"], "prompts:query").json["model"] == "prompts:query"
    answer = client.post("/api/v1/embed", {"texts": TEXTS, "model": "prompts:query"})
    assert_close(answer.json["embeddings"], embedder.encode_query(TEXTS))
    answer = client.post("/api/v1/embed", {"texts": TEXTS, "model": "prompts", "input_type": "query"})
    assert_close(answer.json["embeddings"], embedder.encode_query(TEXTS))
    assert client.get("/v1/models/prompts:query").json["id"] == "prompts"
    assert client.embed("a", "prompts:query", input_type="query").status == 200
    answer = client.embed("a", "prompts:query", input_type="document")
    assert (answer.status, answer.error["param"]) == (400, "input_type")
    assert "prompts:query" in answer.error["message"]
    answer = client.embed("a", "prompts:query", prompt_name="document")
    assert (answer.status, answer.error["param"]) == (400, "prompt_name")


def test_voyages_words_are_understood(client, embedders):
    nulls = {"input_type": None, "output_dtype": None, "output_dimension": None}
    assert_close(rows(client.embed(TEXTS, "prompts", truncation=True, **nulls)), embedders["prompts"].encode(TEXTS))
    cut = client.embed(TEXTS, "prompts", output_dimension=8, output_dtype="float")
    assert_close(rows(cut), embedders["prompts"].encode(TEXTS, truncate_dim=8))
    assert client.embed("long " * 100, "prompts", truncation=False).status == 400
    answer = client.embed("a", "prompts", truncation=False, truncate=True)
    assert (answer.status, "truncate and truncation contradict" in answer.error["message"]) == (400, True)
    assert client.embed("a", "prompts", output_dtype="int8").status == 400


def test_truncate_says_whether_long_texts_are_cut(client, embedders):
    texts = ["short", "long " * 100]
    assert_close(rows(client.embed(texts, "prompts", truncate=True)), embedders["prompts"].encode(texts))
    error = client.embed(texts, "prompts", truncate=False)
    assert error.status == 400
    assert "text 1 has more than 48 tokens" in error.error["message"]


def test_akidbs_endpoint_gives_the_document_vectors(client, minilm, embedders):
    answer = client.post("/api/v1/embed", {"texts": TEXTS})
    assert answer.status == 200
    assert set(answer.json) == {"embeddings", "model", "dimension", "usage"}
    assert answer.json["model"] == "minilm"  # the first
    assert answer.json["dimension"] == 384
    assert answer.json["usage"]["total_tokens"] == sum(minilm.count_tokens(TEXTS))
    assert isinstance(answer.json["usage"]["duration_ms"], int)
    assert_close(answer.json["embeddings"], minilm.encode_document(TEXTS))
    prompted = client.post("/api/v1/embed", {"texts": TEXTS, "model": "prompts", "pooling": "mean"})
    assert_close(prompted.json["embeddings"], embedders["prompts"].encode_document(TEXTS))


@pytest.mark.parametrize("normalize", [True, False, None])
def test_akidbs_normalize(client, embedders, normalize):
    body = {"texts": TEXTS, "model": "org/raw", "normalize": normalize}
    assert_close(
        client.post("/api/v1/embed", body).json["embeddings"],
        embedders["org/raw"].encode_document(TEXTS, normalize=normalize),
    )


def test_akidbs_pooling_must_be_the_models(client):
    answer = client.post("/api/v1/embed", {"texts": ["a"], "model": "minilm", "pooling": "cls"})
    assert answer.status == 400
    assert answer.error["param"] == "pooling"
    assert 'minilm pools with "mean", not "cls"' in answer.error["message"]
    for spelling in ("last_token", "lasttoken"):
        assert client.post("/api/v1/embed", {"texts": ["a"], "model": "last", "pooling": spelling}).status == 200


# what is refused


@pytest.mark.parametrize("token_ids", [[1, 2, 3], [[1, 2], [3]], [5]])
def test_token_ids_are_refused_with_the_remedy(client, token_ids):
    answer = client.embed(token_ids, "minilm")
    assert answer.status == 400
    assert "check_embedding_ctx_length=False" in answer.error["message"]
    assert answer.error["param"] == "input"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"model": "minilm"}, "input", "required"),
        ({"input": "a"}, "model", "say which model; there are minilm, prompts, default, org/raw, last"),
        ({"input": [], "model": "minilm"}, "input", "at least one text"),
        ({"input": None, "model": "minilm"}, "input", "a text or a list of texts"),
        ({"input": {"a": 1}, "model": "minilm"}, "input", "a text or a list of texts"),
        ({"input": ["a", 1], "model": "minilm"}, "input", "input.1: should be a valid string"),
        ({"input": ["a", None], "model": "minilm"}, "input", "input.1: should be a valid string"),
        ({"input": [True], "model": "minilm"}, "input", "input.0: should be a valid string"),
        ({"input": [[]], "model": "minilm"}, "input", "input.0: should be a valid string"),
        ({"input": "a", "model": 1}, "model", "valid string"),
        ({"input": "a", "model": ""}, "model", "at least 1 character"),
        ({"input": "a", "model": "minilm", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "model": "minilm", "dimensions": "8"}, "dimensions", "valid integer"),
        ({"input": "a", "model": "minilm", "dimensions": True}, "dimensions", "valid integer"),
        ({"input": "a", "model": "minilm", "dimensions": 8.5}, "dimensions", "valid integer"),
        ({"input": "a", "model": "minilm", "dimensions": 385}, "dimensions", "dimensions is 385; minilm has 1 to 384"),
        ({"input": "a", "model": "minilm", "encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "model": "minilm", "input_type": "corpus"}, "input_type", "'query' or 'document'"),
        ({"input": "a", "model": "minilm", "prompt_name": "nope"}, None, "has no prompt called 'nope'"),
        ({"input": "a", "model": "minilm", "input_type": "query", "prompt_name": "q"}, "prompt_name", "not both"),
        ({"input": "a", "model": "minilm", "truncate": "yes"}, "truncate", "valid boolean"),
        ({"input": "a", "model": "minilm", "user": 3}, "user", "valid string"),
        ({"input": "a", "model": "minilm", "dimension": 8}, "dimension", "unknown field 'dimension'"),
        ([], None, "object"),
        ("a", None, "JSON"),
        ("", None, "JSON"),
        ('{"input": "a", "model": "minilm"', None, "JSON"),
        (b"\xff\xfe", None, "JSON"),
        ("[" * 100_000, None, "JSON"),
        ('{"input": "a", "model": "minilm", "dimensions": ' + "9" * 6000 + "}", None, "JSON"),
    ],
)
def test_bad_bodies_are_answered_with_400_that_names_the_field(client, body, param, message):
    answer = client.post("/v1/embeddings", body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert message in answer.error["message"]


@pytest.mark.parametrize("texts", [[], None, "a", [1], ["a", None]])
def test_akidbs_bad_texts_are_answered_with_400(client, texts):
    answer = client.post("/api/v1/embed", {"texts": texts})
    assert answer.status == 400
    assert answer.error["param"] == "texts"


def test_an_unknown_model_is_404_and_says_what_there_is(client):
    for answer in (
        client.embed("a", "text-embedding-3-small"),
        client.post("/api/v1/embed", {"texts": ["a"], "model": "text-embedding-3-small"}),
        client.get("/v1/models/text-embedding-3-small"),
    ):
        assert answer.status == 404
        assert answer.error["code"] == "model_not_found"
        assert "minilm, prompts, default, org/raw" in answer.error["message"]


def test_paths_methods_and_types_that_are_not_ours(client):
    assert client.get("/nope").status == 404
    assert "no such path" in client.get("/nope").error["message"]
    assert client.get("/v1/embeddings/").status == 404  # no redirect to an address that the client named
    wrong = client.get("/v1/embeddings")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    wrong.error  # noqa: B018
    body = '{"input": "a", "model": "minilm"}'
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": ""}, {"Content-Encoding": "gzip"}):
        answer = client.post("/v1/embeddings", body, headers)
        assert answer.status == 415
        answer.error  # noqa: B018
    assert client.post("/v1/embeddings", body, {"Content-Type": "application/json; charset=utf-8"}).status == 200


def test_limits_of_bytes_texts_and_tokens():
    limits = {"max_request_bytes": 2000, "max_texts": 3, "max_request_tokens": 20}
    with serving({"m": REFERENCE / "bert-mean"}, **limits) as server, server.client() as client:
        assert client.embed(["a", "b", "c"], "m").status == 200
        for answer in (
            client.embed("x" * 2000, "m"),
            client.call("POST", "/v1/embeddings", iter([b"x" * 1500] * 2), {"Content-Type": "application/json"}),
        ):
            assert answer.status == 413
            assert "2000 bytes" in answer.error["message"]
        for path, body in (
            ("/v1/embeddings", {"input": ["a"] * 4, "model": "m"}),
            ("/api/v1/embed", {"texts": ["a"] * 4}),
        ):
            answer = client.post(path, body)
            assert answer.status == 400
            assert "4 texts in one request; at most 3" in answer.error["message"]
        many = client.embed(["a b c d e f g h", "a b c d e f g h", "a b c d e f g h"], "m")
        assert many.status == 400
        assert "more than 20 tokens together" in many.error["message"]
        assert client.embed("a", "m").status == 200  # the same connection still serves


# models


def test_models_are_listed_and_named(client):
    client.embed("a", "prompts")
    cards = {card["id"]: card for card in client.get("/v1/models").json["data"]}
    assert list(cards) == ["minilm", "prompts", "default", "org/raw", "last"]
    assert cards["prompts"]["loaded"]
    assert (cards["prompts"]["dimension"], cards["prompts"]["max_seq_length"]) == (16, 48)
    assert cards["prompts"]["prompts"] == ["query", "document"]
    for card in cards.values():
        assert card["object"] == "model"
        assert isinstance(card["created"], int)
        assert card["owned_by"] == "akidb-mlx"
    assert client.get("/v1/models/org/raw").json["id"] == "org/raw"


def test_a_models_own_name_and_alias_are_understood(client, minilm):
    assert_close(rows(client.embed("a", MINILM)), minilm.encode(["a"]))
    config = EmbedderConfig(model="gemma-300m-4bit")
    with serving({"g": config}) as server:
        assert server.state.addressed("gemma-300m-4bit") == ("g", None)
        assert server.state.addressed("mlx-community/embeddinggemma-300m-4bit:query") == ("g", "query")


def test_models_are_loaded_on_first_use_and_once():
    loads = []

    def load(config):
        loads.append(Path(config.model).name)
        return Embedder.load(config)

    models = {"a": REFERENCE / "bert-mean", "b": REFERENCE / "bert-cls"}
    with serving(models, load=load) as server, ThreadPoolExecutor(8) as threads:

        def ask(_):
            with server.client() as client:
                return client.embed("a", "b").status

        assert not loads
        assert list(threads.map(ask, range(8))) == [200] * 8
        assert loads == ["bert-cls"]
        embedder = next(server.state.models.loaded).embedder
    assert not embedder.healthy  # given back at the end


def test_a_model_that_cannot_be_loaded_fails_alone_and_is_tried_again():
    attempts = []

    def load(config):
        attempts.append(config.model)
        if len(attempts) == 1:
            raise ModelNotFoundError("there is no such folder")
        return Embedder.load(config)

    models = {"a": REFERENCE / "bert-mean", "b": REFERENCE / "bert-cls"}
    with serving(models, load=load) as server, server.client() as client:
        answer = client.embed("x", "a")
        assert answer.status == 500
        assert answer.error["code"] == "model_not_loaded"
        assert "there is no such folder" in answer.error["message"]
        assert client.embed("x", "b").status == 200
        assert client.embed("x", "a").status == 200


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/embeddings", "it is /v1/embeddings here"),
        ("/v1/v1/embeddings", "it is /v1/embeddings here"),
        ("/v1/embeddings/", "it is /v1/embeddings here"),
        ("/api/embeddings/", "it is /api/embeddings here"),
        ("/v1/api/embed", "it is /api/embed here"),
        ("/embed", "/v1/embeddings or /v2/embed or /api/embed or /api/v1/embed here"),
        ("/v1/v1/rerank", "it is /v1/rerank here"),
        ("/v1/chat/completions", "it writes no text"),
        ("/v1", "texts go to /v1/embeddings"),
    ],
)
def test_a_wrong_path_is_404_and_names_the_right_one(client, path, place):
    answer = client.post(path, {"input": "a", "model": "minilm"})
    assert answer.status == 404
    assert place in answer.json["message"]


def test_a_wrong_method_names_the_right_one(client):
    assert "POST is" in client.get("/v1/embeddings").error["message"]
    assert "texts go to /v1/embeddings" in client.post("/", {}).error["message"]


def test_every_error_says_its_reason_under_three_names(client):
    for answer in (
        client.get("/nope"),
        client.embed("a", "nope"),
        client.post("/api/v1/embed", {}),
        client.post("/", {}),
    ):
        assert answer.json["message"] == answer.json["detail"] == answer.error["message"]


def test_a_body_without_a_content_type_is_read_unless_a_page_sent_it(client):
    body = b'{"input": "a", "model": "minilm"}'

    def send(**headers):
        client.connection.putrequest("POST", "/v1/embeddings")
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            client.connection.putheader(name, value)
        client.connection.endheaders(body)
        answer = client.connection.getresponse()
        answer.read()
        return answer.status

    assert send() == 200
    assert send(Origin="https://a.example") == 415
    assert send(Origin="null") == 415


def test_an_absolute_target_is_a_path_and_a_host(client, server):
    body = {"input": "a", "model": "minilm"}
    assert client.post(f"http://localhost:{server.port}/v1/embeddings", body).status == 200
    said = {"Content-Type": "text/plain"}  # its headers are kept
    assert client.post(f"http://localhost:{server.port}/v1/embeddings", body, said).status == 415
    assert client.get("http://LOCALHOST/v1/models?x=1").json["object"] == "list"
    assert client.get("http://evil.example/v1/models", {"Host": "localhost"}).status == 403
    assert client.get("http://localhost").headers["Content-Type"].startswith("text/html")


# the queue


def test_who_is_refused_is_told_another_time_than_the_others_and_soon(monkeypatch):
    monkeypatch.setattr(turned_away, "time", SimpleNamespace(monotonic=lambda: 7.0))  # all of them at once
    for seconds in (0.1, 1, 30, 500):
        refusing = turned_away.TurnedAway()
        waits = [refusing.headers(seconds) for _ in range(50)]
        milliseconds = sorted(int(one["Retry-After-Ms"]) for one in waits)
        assert milliseconds[0] >= 1000 * min(seconds, 40)
        assert milliseconds[-1] < 60_000
        assert all(int(one["Retry-After"]) <= 59 for one in waits)
        gaps = np.diff(milliseconds)
        assert gaps.max() < (milliseconds[-1] - milliseconds[0]) / 20  # spread, not heaped


def test_texts_beyond_max_requests_wait_for_their_turn():
    with serving({"m": REFERENCE / "bert-mean"}, max_requests=2) as server, server.client() as client:
        assert client.embed("warm", "m").status == 200

        def ask(text):
            with server.client() as client:
                return client.embed(text, "m").status

        with ThreadPoolExecutor(9) as threads:
            with held_device():
                waiting = [threads.submit(ask, f"text {i}") for i in range(9)]
                until(lambda: in_flight(client) == 10)
                assert queued(server) > 0
            assert [one.result() for one in waiting] == [200] * 9


async def test_texts_that_get_no_turn_in_time_are_429():
    models = Models({"m": EmbedderConfig(model=REFERENCE / "bert-mean")})
    state = State(ServerSettings(max_requests=1, request_timeout_s=0.05), models, None)
    for_ever, said = asyncio.Event(), []

    async def app(scope, receive, send):
        await for_ever.wait()

    async def send(message):
        said.append(message)

    gate = Gate(app, state, frozenset())
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}
    first = asyncio.create_task(gate(dict(scope), None, send))
    await asyncio.sleep(0)
    await gate(dict(scope), None, send)
    assert said[0]["status"] == 429
    assert b"no turn came within 0.05 s" in said[1]["body"]
    for_ever.set()
    await first


def in_flight(client):
    lines = client.get("/metrics").body.decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("akidb_mlx_http_requests_in_flight "))


def test_a_full_queue_is_429_with_retry_after():
    config = EmbedderConfig(model=REFERENCE / "bert-mean", max_queued_tokens=20)
    with serving({"m": config}) as server, server.client() as client, server.client() as first:
        assert client.embed("warm", "m").status == 200
        with ThreadPoolExecutor(1) as threads, held_device():
            waiting = threads.submit(first.embed, "one two three four five six", "m")
            until(lambda: queued(server) > 0)
            answer = client.embed("one two three four five six seven eight nine ten", "m")
            assert answer.status == 429
            assert answer.error["code"] == "rate_limit_exceeded"
            assert "max_queued_tokens=20" in answer.error["message"]
            assert int(answer.headers["Retry-After"]) >= 1
            assert int(answer.headers["Retry-After-Ms"]) >= 1
        assert waiting.result().status == 200
        assert client.embed("one two three four five six seven eight nine ten", "m").status == 200


def queued(server):
    return sum(model.embedder.stats()["queued_tokens"] for model in server.state.models.loaded)


def stats(server, name):
    return next(model for model in server.state.models.loaded if model.name == name).embedder.stats()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/v1/embed"])
def test_a_client_that_leaves_takes_its_request_out_of_the_queue(path):
    body = {"input": ["leaving now"], "model": "m"} if path.startswith("/v1") else {"texts": ["leaving now"]}
    with serving({"m": REFERENCE / "bert-mean"}) as server, server.client() as client:
        assert client.embed("warm", "m").status == 200
        before = stats(server, "m")
        with held_device():
            with server.client() as leaver:
                leaver.connection.request(
                    "POST", path, body=str(body).replace("'", '"'), headers={"Content-Type": "application/json"}
                )
                until(lambda: queued(server) > 0)
            until(lambda: queued(server) == 0)
        assert client.embed("still serving", "m").status == 200
        after = stats(server, "m")
        assert after["cancelled_requests"] == before["cancelled_requests"] + 1
        assert after["rows"] == before["rows"] + 1  # the leaver's was never computed


def test_a_request_that_takes_too_long_is_504_and_leaves_the_queue():
    with serving({"m": REFERENCE / "bert-mean"}, request_timeout_s=0.2) as server, server.client() as client:
        until(lambda: client.embed("warm", "m").status == 200)
        with held_device():
            began = time.monotonic()
            answer = client.embed("too late", "m")
            assert answer.status == 504
            assert time.monotonic() - began >= 0.2
            assert "0.2 s" in answer.error["message"]
            until(lambda: queued(server) == 0)
        until(lambda: client.embed("in time", "m").status == 200)  # on a busy machine not the first


def test_a_body_that_comes_too_slowly_is_408():
    with serving({"m": REFERENCE / "bert-mean"}, body_timeout_s=0.2) as server, server.client() as client:
        client.connection.putrequest("POST", "/v1/embeddings")
        client.connection.putheader("Content-Type", "application/json")
        client.connection.putheader("Content-Length", "100")
        client.connection.endheaders(b"{")
        answer = client.connection.getresponse()
        assert answer.status == 408
        assert answer.headers["Connection"] == "close"
        answer.read()


def test_more_requests_than_max_requests_are_429():
    with serving({"m": REFERENCE / "bert-mean"}, max_requests=1) as server, server.client() as client:
        assert client.embed("warm", "m").status == 200
        with server.client() as first, ThreadPoolExecutor(1) as threads:
            with held_device():
                waiting = threads.submit(first.embed, "a", "m")
                until(lambda: queued(server) > 0)
                answer = client.get("/v1/models")
                assert answer.status == 429
                assert answer.headers["Retry-After"] == "1"
                assert client.get("/health").status == 200
            assert waiting.result().status == 200


def test_concurrent_requests_share_batches_and_keep_their_rows(server, minilm):
    texts = [f"request {i} " + "more " * (i % 7) for i in range(64)]
    expected = minilm.encode(texts)

    def ask(text):
        with server.client() as client:
            return rows(client.embed(text, "minilm", encoding_format="base64"))[0]

    with server.client() as client, ThreadPoolExecutor(64) as threads, unmeasured(minilm):
        assert client.embed("warm", "minilm").status == 200
        before = stats(server, "minilm")["batches"]
        with held_device():
            answers = [threads.submit(ask, text) for text in texts]
            until(lambda: queued(server) >= sum(minilm.count_tokens(texts)))
        assert_close([answer.result() for answer in answers], expected)
        assert stats(server, "minilm")["batches"] - before < 16


def test_others_are_answered_while_much_is_tokenised_and_written(monkeypatch):
    asked = set()

    def beside_another(work):
        def call(*args):
            if work not in asked:
                asked.add(work)
                with server.client() as other:  # an event loop that does this work answers nobody
                    assert other.get("/health").status == 200
            return work(*args)

        return call

    with serving({"m": REFERENCE / "bert-mean"}, max_texts=3000) as server, server.client() as client:
        assert client.embed("warm", "m").status == 200
        tokenizer = next(server.state.models.loaded).embedder._loaded.tokenizer
        works = tokenizer.tokenize, responses._numbers
        monkeypatch.setattr(tokenizer, "tokenize", beside_another(tokenizer.tokenize))
        monkeypatch.setattr(responses, "_numbers", beside_another(responses._numbers))
        assert client.embed(["a"] * 2100, "m").status == 200
        assert asked == set(works)


# who may


def test_an_api_key_is_asked_for_where_there_is_one():
    with serving({"m": REFERENCE / "bert-mean"}, api_key="sesame") as server, server.client() as client:
        body = {"input": "a", "model": "m"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sesame"}, {"Authorization": ""}):
            for path in ("/v1/embeddings", "/api/v1/embed", "/v1/models", "/metrics", "/openapi.json", "/nope"):
                answer = client.call("POST", path, body, headers)
                assert answer.status == 401
                assert answer.error["code"] == "invalid_api_key"
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/v1/embeddings", body, {"Authorization": "Bearer sesame"}).status == 200
        assert client.get("/health").status == 200
        assert client.get("/").status == 200


def test_only_the_loopbacks_own_names_are_served_there(server, client):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert client.get("/v1/models", {"Host": host}).status == 403
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:9"):
        assert client.get("/v1/models", {"Host": host}).status == 200
    with serving({"m": REFERENCE / "bert-mean"}, allowed_hosts=("My.box",)) as other, other.client() as client:
        assert client.get("/v1/models", {"Host": "my.box:8000"}).status == 200
    with serving({"m": REFERENCE / "bert-mean"}, host="0.0.0.0") as other, other.client() as client:
        assert client.get("/v1/models", {"Host": "anything"}).status == 200


def test_cors_is_off_until_an_origin_is_named(client):
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "Access-Control-Allow-Origin" not in client.get("/v1/models", ask).headers
    assert client.call("OPTIONS", "/v1/embeddings", headers=ask).status == 405
    with (
        serving({"m": REFERENCE / "bert-mean"}, api_key="sesame", cors_origins=("https://a.example",)) as server,
        server.client() as client,
    ):
        asked = client.call(
            "OPTIONS", "/v1/embeddings", headers={**ask, "Access-Control-Request-Headers": "authorization,content-type"}
        )
        assert asked.status == 200  # a browser sends no key with its question
        assert asked.headers["Access-Control-Allow-Origin"] == "https://a.example"
        key = {"Authorization": "Bearer sesame"}
        assert client.get("/v1/models", {**ask, **key}).headers["Access-Control-Allow-Origin"] == "https://a.example"
        other = client.get("/v1/models", {**key, "Origin": "https://b.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


# operation


def test_health_says_whether_to_send_requests_here(server, client):
    answer = client.get("/health")
    assert (answer.status, answer.json["status"]) == (200, "ok")
    assert (answer.json["live"], answer.json["ready"], answer.json["worker"]) == (True, True, True)
    server.state.stopping = True
    try:
        answer = client.get("/health")
    finally:
        server.state.stopping = False
    assert (answer.status, answer.json["status"], answer.json["ready"]) == (503, "stopping", False)
    assert answer.headers["Connection"] == "close"


def test_health_is_loading_until_what_is_preloaded_is_there():
    go = threading.Event()

    def load(config):
        assert go.wait(PATIENCE_S)
        return Embedder.load(config)

    with serving({"m": REFERENCE / "bert-mean"}, load=load) as server, server.client() as client:
        answer = client.get("/health")
        assert (answer.status, answer.json["status"], answer.json["live"]) == (503, "loading", True)
        with ThreadPoolExecutor(1) as threads, server.client() as other:
            waiting = threads.submit(other.embed, "a", "m")
            go.set()
            assert waiting.result().status == 200
        assert client.get("/health").status == 200


def test_health_tells_of_a_dead_worker_and_brings_it_back(monkeypatch):
    from akidb_mlx.engine.batch import Batch

    class Died(BaseException):
        pass

    def die(batch):
        raise Died

    with serving({"m": REFERENCE / "bert-mean"}) as server, server.client() as client:
        assert client.embed("warm", "m").status == 200
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "start", die)
            answer = client.embed("fatal", "m")
            assert answer.status == 500
            assert answer.error["code"] == "backend_error"
            assert "Traceback" not in answer.error["message"]
            answer = client.get("/health")
            assert (answer.status, answer.json["status"], answer.json["worker"]) == (503, "unhealthy", False)
        until(lambda: client.get("/health").status == 200)
        assert client.embed("back", "m").status == 200


def test_metrics_count_what_happened():
    from prometheus_client.parser import text_string_to_metric_families

    with serving({"m": REFERENCE / "bert-mean"}) as server, server.client() as client:
        tokens = client.embed(["a", "b c"], "m").json["usage"]["total_tokens"]
        client.embed("x", "nope")
        client.get("/whatever/path")
        text = client.get("/metrics").body.decode()
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        warm = stats(server, "m")["tokens"] - tokens
        assert samples["akidb_mlx_tokens_total", ("model", "m")] == tokens + warm
        assert samples["akidb_mlx_queued_tokens", ("model", "m")] == 0
        assert samples["akidb_mlx_worker_alive",] == 1
        answered = "akidb_mlx_http_requests_total"
        where = ("method", "POST"), ("route", "/v1/embeddings")
        assert samples[(answered, *where, ("status", "200"))] == 1
        assert samples[(answered, *where, ("status", "404"))] == 1
        assert samples[(answered, ("method", "GET"), ("route", "other"), ("status", "404"))] == 1
        latency = ("akidb_mlx_engine_seconds_count", ("kind", "document"), ("model", "m"))
        assert samples[latency] == stats(server, "m")["requests"]
        assert samples["akidb_mlx_http_requests_in_flight",] == 1
        assert "/whatever" not in text


def test_an_unexpected_failure_is_500_without_its_traceback(monkeypatch, client, caplog):
    async def fail(self, *args, **kwargs):
        raise RuntimeError("an inner secret")

    monkeypatch.setattr(Embedder, "aencode_with_usage", fail)
    answer = client.embed("a", "minilm")
    assert answer.status == 500
    assert answer.error["type"] == "server_error"
    assert b"secret" not in answer.body
    until(lambda: "an inner secret" in caplog.text)


def log_line(records, request_id):
    lines = (record.fields for record in records if record.name == "akidb_mlx.server.middleware")
    return next((line for line in lines if line["request_id"] == request_id), None)


def test_a_line_in_the_log_for_each_request_without_its_texts(client, caplog):
    with caplog.at_level("INFO", logger="akidb_mlx.server.middleware"):
        answer = client.post(
            "/v1/embeddings", {"input": ["private matter"], "model": "minilm"}, {"X-Request-Id": "abc-1"}
        )
        assert answer.headers["X-Request-Id"] == "abc-1"
        line = until(lambda: log_line(caplog.records, "abc-1"))
    tokens = answer.json["usage"]["total_tokens"]
    assert line["request_id"] == "abc-1"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/embeddings", 200)
    assert (line["model"], line["texts"], line["tokens"]) == ("minilm", 1, tokens)
    assert line["duration_ms"] > 0
    assert "private" not in caplog.text
    own = client.get("/v1/models", {"X-Request-Id": "x" * 200}).headers["X-Request-Id"]
    assert len(own) == 16


def test_the_openapi_document_names_every_path(client, server):
    document = client.get("/openapi.json").json
    assert set(document["paths"]) == {route.path.replace(":path", "") for route in server.app.routes}
    schema = document["components"]["schemas"]["EmbeddingsRequest"]
    assert [one["type"] for one in schema["properties"]["input"]["anyOf"]] == ["string", "array"]


def test_the_page_is_one_file_that_calls_nobody_else(client):
    answer = client.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    page = answer.body.decode()
    assert page == monitoring._PAGE
    outside = page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "http:" not in outside
    assert "https:" not in outside
    assert "innerHTML" not in page


def test_two_requests_on_one_connection(server):
    with Client(server.port) as client:
        assert client.embed("a", "minilm").status == 200
        first = client.connection.sock
        assert client.embed("b", "minilm").status == 200
        assert client.connection.sock is first


def test_answers_do_not_wait_for_an_acknowledgement():
    """Two writes per answer: with Nagle's algorithm the second waits for the client's delayed ACK."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_servers_own_probe_is_named_where_the_model_makes_no_numbers():
    """It is no user's text that is at fault."""

    class Broken:
        async def aencode(self, texts):
            raise InputError("input 0 gives numbers that are not finite")

    with pytest.raises(CheckpointError, match=r"^m: the server's own probe '.*' failed: input 0 gives numbers"):
        asyncio.run(models._warm_up(models.ServedModel("m", "embedder", Broken(), {})))
