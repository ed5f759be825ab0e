"""The rerank routes: every API's request and answer, scores from 0 to 1, what is refused and with which words."""

import json

import pytest

from akidb_mlx import Embedder, EmbedderConfig, Reranker, RerankerConfig
from akidb_mlx.server import ServerSettings
from support.checkpoints import REFERENCE, RERANKERS, read_reranker_case
from support.comparison import assert_close
from support.device import held_device
from support.reranker import StandIn, logit, sigmoid
from support.serving import serving
from support.waiting import until

QUERY = "who repairs a broken grinder"
TEXTS = [
    "Parcels go by freight.",
    "we know who repairs a broken grinder",
    "a grinder",
    "",
    "a grinder",
    "who repairs a bike <b>&amp;</b> 日本語",
]
RAW = [logit(QUERY, text) for text in TEXTS]
BEST = [1, 5, 2, 4, 3, 0]  # the two equal ones as they were given
MODELS = {
    "ce": RerankerConfig(model="stand-in"),
    "labels": RerankerConfig(model="three-labels"),
    "left": RerankerConfig(model="cuts-on-the-left"),
    "tiny": EmbedderConfig(model=REFERENCE / "bert-mean"),
}


def load(config):
    if isinstance(config, EmbedderConfig):
        return Embedder.load(config)
    return StandIn(
        config, labels=3 if "labels" in config.model else 1, side="left" if "left" in config.model else "right"
    )


RERANK_PATHS = {"/rerank", "/v1/rerank", "/v2/rerank", "/score"}


@pytest.fixture(scope="module")
def server():
    with serving(MODELS, load=load, max_texts=50, max_request_tokens=300) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def test_the_expected_order():
    assert sorted(range(6), key=lambda i: -RAW[i]) == BEST
    assert RAW[2] == RAW[4]


# the shapes


def documents(client, path="/v1/rerank", **more):
    return client.post(path, {"model": "ce", "query": QUERY, "documents": TEXTS, **more})


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_give_an_object_best_first(client, path):
    answer = documents(client, path)
    assert answer.status == 200, answer.body
    assert set(answer.json) == {"id", "model", "results", "usage", "meta"}
    assert answer.json["model"] == "ce"
    assert [result["index"] for result in answer.json["results"]] == BEST
    scores = [result["relevance_score"] for result in answer.json["results"]]
    assert scores == pytest.approx([sigmoid(RAW[i]) for i in BEST], abs=1e-6)
    assert all(set(result) == {"index", "relevance_score"} for result in answer.json["results"])
    tokens = sum(StandIn().count_tokens([(QUERY, text) for text in TEXTS]))
    assert answer.json["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer.json["meta"] == {"tokens": {"input_tokens": tokens}, "billed_units": {"search_units": 1}}
    assert answer.json["id"] != documents(client, path).json["id"]


def test_documents_come_back_only_when_asked_for(client):
    results = documents(client, return_documents=True).json["results"]
    assert [result["document"] for result in results] == [{"text": TEXTS[i]} for i in BEST]
    for said in (False, None):
        assert "document" not in documents(client, return_documents=said).json["results"][0]


def test_documents_may_hold_their_text_in_a_field(client):
    given = [{"text": text, "title": "ignored"} if i % 2 else text for i, text in enumerate(TEXTS)]
    for fields in (["text"], None):
        answer = documents(client, documents=given, rank_fields=fields, return_documents=True)
        assert [result["index"] for result in answer.json["results"]] == BEST
        assert answer.json["results"][0]["document"] == {"text": TEXTS[1]}


@pytest.mark.parametrize(("top_n", "count"), [(0, 6), (None, 6), (1, 1), (4, 4), (99, 6)])
def test_top_n(client, top_n, count):
    assert [result["index"] for result in documents(client, top_n=top_n).json["results"]] == BEST[:count]
    answer = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "top_n": top_n})
    assert [result["index"] for result in answer.json] == BEST[:count]


def test_what_is_optional_may_be_null(client):
    names = ("top_n", "return_documents", "raw_scores", "use_activation", "truncate", "rank_fields", "priority", "user")
    more = ("max_tokens_per_doc", "max_chunks_per_doc", "truncate_prompt_tokens", "model")
    assert documents(client, **dict.fromkeys((*names, *more))).status == 200
    names = ("model", "raw_scores", "return_text", "truncate", "truncation_direction", "top_n")
    assert client.post("/rerank", {"query": QUERY, "texts": TEXTS, **dict.fromkeys(names)}).status == 200
    body = {"text_1": QUERY, "text_2": TEXTS, **dict.fromkeys(("queries", "documents", "model", "use_activation"))}
    assert client.post("/score", body).status == 200


def test_what_is_taken_and_ignored(client):
    assert documents(client, priority=3, max_chunks_per_doc=10, user="somebody").status == 200
    assert documents(client, max_tokens_per_doc=4096, truncate_prompt_tokens=48).status == 200
    assert documents(client, truncate_prompt_tokens=-1).status == 200


def test_texts_give_a_bare_list_best_first(client):
    answer = client.post("/rerank", {"query": QUERY, "texts": TEXTS})
    assert answer.status == 200
    assert [result["index"] for result in answer.json] == BEST
    assert [result["score"] for result in answer.json] == pytest.approx([sigmoid(RAW[i]) for i in BEST], abs=1e-6)
    assert set(answer.json[0]) == {"index", "score"}
    answer = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    assert [result["text"] for result in answer.json] == [TEXTS[i] for i in BEST]


def test_raw_scores_are_the_models_own_numbers(client):
    best = pytest.approx([RAW[i] for i in BEST])
    answer = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True})
    assert [result["score"] for result in answer.json] == best
    for more in ({"raw_scores": True}, {"use_activation": False}, {"raw_scores": True, "use_activation": False}):
        assert [one["relevance_score"] for one in documents(client, **more).json["results"]] == best
    scored = client.post("/score", {"text_1": QUERY, "text_2": TEXTS, "use_activation": False}).json["data"]
    assert [one["score"] for one in scored] == pytest.approx(RAW)


def test_scores_are_0_to_1_whatever_the_models_activation():
    config = RerankerConfig(model="stand-in", activation="identity")
    with serving({"ce": config}, load=StandIn) as server, server.client() as client:
        assert min(RAW) < 0
        scores = [one["relevance_score"] for one in documents(client).json["results"]]
        assert scores == pytest.approx([sigmoid(RAW[i]) for i in BEST], abs=1e-6)


@pytest.mark.parametrize("name", ["bert", "bert-v4-identity", "qwen3-reranker"])
def test_a_real_reranker_gives_its_references_numbers(name):
    folder, _, arrays, pairs = read_reranker_case(name)
    config = RerankerConfig(model=folder, dtype="float32")
    with serving({"r": config}) as server, server.client() as client, Reranker.load(config) as reranker:
        queries, texts = map(list, zip(*pairs, strict=True))
        answer = client.post("/score", {"queries": queries, "documents": texts, "raw_scores": True})
        assert_close([one["score"] for one in answer.json["data"]], arrays["logits"], 1e-5)
        assert answer.json["usage"]["total_tokens"] == sum(reranker.count_tokens(pairs, reranker._prompts.query))
        found = client.post("/rerank", {"query": queries[0], "texts": texts[:20]}).json
        expected = reranker.predict([(queries[0], text) for text in texts[:20]], activation="sigmoid")
        assert_close([one["score"] for one in sorted(found, key=lambda one: one["index"])], expected, 1e-6)
        ranked = reranker.rank(queries[0], texts[:20], activation="sigmoid")
        assert [one["score"] for one in found] == pytest.approx([one.score for one in ranked], abs=1e-6)
        card = client.get("/v1/models/r").json
        assert (card["kind"], card["num_labels"], card["max_seq_length"]) == ("reranker", 1, reranker.max_seq_length)
        assert 'akidb_mlx_rerank_requests_total{model="r"} 2.0' in client.get("/metrics").body.decode()


def test_voyages_words_give_voyages_answer(client):
    answer = documents(client, top_k=2, truncation=True)
    assert set(answer.json) == {"object", "data", "model", "usage"}
    assert [result["index"] for result in answer.json["data"]] == BEST[:2]
    assert documents(client, documents=["long " * 100], truncation=False).status == 400


@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents"), ("text_1", "documents")])
def test_score_keeps_the_order(client, names):
    for first, second, expected in (
        (QUERY, TEXTS, RAW),
        ([QUERY], TEXTS, RAW),
        (QUERY, TEXTS[1], RAW[1:2]),
        ([QUERY, "a grinder"], TEXTS[1:3], [RAW[1], logit("a grinder", "a grinder")]),
    ):
        answer = client.post("/score", dict(zip(names, (first, second), strict=True)))
        assert answer.status == 200, answer.body
        assert set(answer.json) == {"id", "object", "created", "model", "data", "usage"}
        assert [(one["index"], one["object"]) for one in answer.json["data"]] == [
            (index, "score") for index in range(len(expected))
        ]
        assert [one["score"] for one in answer.json["data"]] == pytest.approx(list(map(sigmoid, expected)), abs=1e-6)


def test_search_units_are_a_hundred_documents_each():
    with serving({"ce": MODELS["ce"]}, load=load) as server, server.client() as client:
        for count, units in ((1, 1), (100, 1), (101, 2)):
            answer = documents(client, documents=["a grinder"] * count)
            assert answer.json["meta"]["billed_units"] == {"search_units": units}


def test_a_text_is_scored_as_it_was_sent(client, server):
    client.post("/rerank", {"query": " a\n", "texts": ["  b\t", "\x00"]})
    (model,) = [model for model in server.state.models.loaded if model.name == "ce"]
    assert model.reranker.calls[-1] == ([(" a\n", "  b\t"), (" a\n", "\x00")], "sigmoid")


@pytest.mark.parametrize("said", ["right", "Right", "RIGHT"])
def test_the_direction_of_the_cut_in_any_case(client, said):
    body = {"query": QUERY, "texts": TEXTS, "truncate": True, "truncation_direction": said}
    assert client.post("/rerank", body).status == 200
    answer = client.post("/rerank", {**body, "model": "left"})
    assert answer.status == 422
    assert "send truncation_direction 'left'" in answer.error["message"]
    assert client.post("/rerank", {**body, "model": "left", "truncation_direction": "Left"}).status == 200


# what is refused


def test_an_embedder_and_a_reranker_are_told_apart(client):
    for path, body in (
        ("/rerank", {"query": "a", "texts": ["b"]}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b"}),
    ):
        answer = client.post(path, {**body, "model": "tiny"})
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "model", "wrong_kind")
        assert answer.error["message"] == (
            "'tiny' is an embedder: POST /v1/embeddings and /api/v1/embed take it; "
            "each reranker that is served: ce, labels, left"
        )
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/api/v1/embed", {"texts": ["a"]})):
        answer = client.post(path, {**body, "model": "ce"})
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "model", "wrong_kind")
        assert "'ce' is a reranker: POST /rerank, /v1/rerank, /v2/rerank and /score take it" in answer.error["message"]
        assert set(answer.json) == {"error", "message", "detail"}


def test_a_server_without_the_kind_says_what_to_do():
    with serving({"tiny": MODELS["tiny"]}) as server, server.client() as client:
        answer = client.post("/rerank", {"query": "a", "texts": ["b"]})
        assert answer.status == 404
        assert "start the server with --reranker MODEL" in answer.error["message"]
    with serving({"ce": MODELS["ce"]}, load=load) as server, server.client() as client:
        answer = client.post("/api/v1/embed", {"texts": ["b"]})
        assert answer.status == 404
        assert "start the server with --model MODEL" in answer.error["message"]


def test_several_labels_tell_no_order(client):
    answer = documents(client, model="labels")
    assert answer.status == 400
    assert "labels gives 3 scores per pair" in answer.error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/rerank", {"query": "a"}, "documents", "documents: Field required"),
        ("/rerank", {"query": "a", "texts": []}, "texts", "at least 1 item"),
        ("/rerank", {"query": "a", "documents": []}, "documents", "at least 1 item"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents", "at least 1 item"),
        ("/v1/rerank", {"query": "a", "texts": ["b"]}, "documents", "documents: Field required"),
        ("/rerank", {"query": "a", "texts": ["b"], "documents": ["b"]}, "documents", "unknown field 'documents'"),
        ("/rerank", {"texts": ["b"]}, "query", "query: Field required"),
        ("/rerank", {"query": ["a"], "texts": ["b"]}, "query", "query: should be a valid string"),
        ("/rerank", {"query": "a", "texts": "b"}, "texts", "should be a valid array"),
        ("/rerank", {"query": "a", "texts": ["b", 1]}, "texts", "texts.1: should be a valid string"),
        (
            "/v1/rerank",
            {"query": "a", "documents": ["b", {"t": "b"}]},
            "documents",
            "documents.1: should be a text, or",
        ),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "top_n", "greater than or equal to 0"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "rank_fields": ["title"]}, "rank_fields", "'text'"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 9}, "max_tokens_per_doc", "48 tokens"),
        (
            "/v1/rerank",
            {"query": "a", "documents": ["b"], "truncate_prompt_tokens": 9},
            "truncate_prompt_tokens",
            "leave it out",
        ),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "topn": 1}, "topn", "unknown field 'topn'"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "model": ""}, "model", "at least 1 character"),
        (
            "/v1/rerank",
            {"query": "a", "documents": ["b"], "raw_scores": True, "use_activation": True},
            "raw_scores",
            "contradict",
        ),
        ("/rerank", {"query": "a", "texts": ["b"], "truncation_direction": "up"}, "truncation_direction", "'left' or"),
        ("/rerank", {"query": "a", "texts": ["b " * 100], "truncate": False}, None, "more than 48 tokens"),
        ("/rerank", {"query": "a", "texts": ["b"] * 51}, None, "51 texts in one request; at most 50"),
        ("/rerank", {"query": "a", "texts": ["b " * 40] * 9}, None, "more than 300 tokens together"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, None, "2 and 3 texts"),
        ("/score", {"text_1": "a"}, "text_2", "send text_2 or documents, neither is there"),
        ("/score", {"text_1": "a", "queries": "a", "text_2": "b"}, "text_1", "send text_1 or queries, not both"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2", "at least 1 item"),
        ("/score", {"text_1": 1, "text_2": "b"}, "text_1", "should be a valid array"),
        ("/rerank", [], None, "object"),
        ("/rerank", "nonsense", None, "JSON"),
        ("/rerank", b"\xff", None, "JSON"),
        ("/rerank", "[" * 100_000, None, "JSON"),
    ],
)
def test_a_users_mistake_is_400_in_words_that_every_client_finds(client, path, body, param, message):
    answer = client.post(path, body)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param
    assert message in answer.error["message"]
    assert answer.json["message"] == answer.json["detail"] == answer.error["message"]


def test_every_error_of_these_routes_has_the_three_names(client):
    assert {path for path in RERANK_PATHS if client.get(path).status == 405} == RERANK_PATHS
    for answer in (
        client.get("/rerank"),
        client.post("/v2/rerank", "{}", {"Content-Type": "text/plain"}),
        client.post("/score", {"text_1": "a", "text_2": "b", "model": "nope"}),
    ):
        assert set(answer.json) == {"error", "message", "detail"}
        assert answer.error["message"] == answer.json["detail"]
    with serving({"ce": MODELS["ce"]}, load=load, api_key="sesame") as server, server.client() as client:
        answer = documents(client)
        assert answer.status == 401
        assert set(answer.json) == {"error", "message", "detail"}
        answer = client.post("/rerank", {"query": "a", "texts": ["b"]}, {"Authorization": "Bearer sesame"})
        assert answer.status == 200


def test_a_body_over_the_limit_is_413():
    with serving({"ce": MODELS["ce"]}, load=load, max_request_bytes=500) as server, server.client() as client:
        answer = client.post("/rerank", {"query": "a", "texts": ["x" * 500]})
        assert answer.status == 413
        assert "500 bytes" in answer.json["detail"]


def test_a_full_queue_is_429_with_retry_after(server, client):
    until(lambda: documents(client).status == 200)
    (model,) = [model for model in server.state.models.loaded if model.name == "ce"]
    model.model.full = True
    try:
        answer = documents(client)
    finally:
        model.model.full = False
    assert answer.status == 429
    assert answer.error["code"] == "rate_limit_exceeded"
    assert (answer.headers["Retry-After"], answer.headers["Retry-After-Ms"]) == ("2", "1500")
    assert "max_queued_tokens=20" in answer.json["detail"]


def queued(server):
    return sum(model.model.stats()["queued_tokens"] for model in server.state.models.loaded)


def test_a_real_queue_is_full_and_who_leaves_makes_room():
    config = RerankerConfig(model=RERANKERS / "bert", max_queued_tokens=40)
    body = {"query": "one two three", "texts": ["four five six seven"]}
    with serving({"r": config}) as server, server.client() as client:
        assert client.post("/rerank", body).status == 200
        before = next(server.state.models.loaded).model.stats()
        with held_device():
            with server.client() as leaver:
                leaver.connection.request("POST", "/rerank", json.dumps(body), {"Content-Type": "application/json"})
                until(lambda: queued(server) > 0)
                answer = client.post("/v1/rerank", {"query": "one two", "documents": ["three four five"] * 9})
                assert answer.status == 429
                assert int(answer.headers["Retry-After"]) >= 1
                assert "max_queued_tokens=40" in answer.json["detail"]
            until(lambda: queued(server) == 0)
        assert client.post("/rerank", body).status == 200
        after = next(server.state.models.loaded).model.stats()
        assert after["cancelled_requests"] == before["cancelled_requests"] + 1
        assert after["refused_requests"] == before["refused_requests"] + 1


# what operators see


def test_models_say_their_kind(client):
    documents(client)
    cards = {card["id"]: card for card in client.get("/v1/models").json["data"]}
    assert {name: card["kind"] for name, card in cards.items()} == {
        "ce": "reranker",
        "labels": "reranker",
        "left": "reranker",
        "tiny": "embedder",
    }
    assert (cards["ce"]["loaded"], cards["ce"]["num_labels"], cards["ce"]["max_seq_length"]) == (True, 1, 48)
    assert "dimension" not in cards["ce"]
    assert client.get("/v1/models/ce").json["kind"] == "reranker"


def test_metrics_count_requests_and_pairs():
    with serving({"ce": MODELS["ce"]}, load=load) as server, server.client() as client:
        documents(client)
        documents(client, model="stand-in", documents=["a"])  # the model's own name
        client.post("/score", {"text_1": "a", "text_2": ["b", "c"]})
        documents(client, documents=[])
        text = client.get("/metrics").body.decode()
        assert 'akidb_mlx_rerank_requests_total{model="ce"} 3.0' in text
        assert 'akidb_mlx_rerank_pairs_total{model="ce"} 9.0' in text
        assert 'akidb_mlx_texts_total{model="ce"} 10.0' in text  # with the one that warms up
        assert 'route="/v1/rerank",status="400"} 1.0' in text.replace('method="POST",', "")


def test_the_log_has_sizes_and_no_texts(client, caplog):
    with caplog.at_level("INFO"):
        client.post("/rerank", {"query": "a private matter", "texts": ["b", "c"]}, {"X-Request-Id": "mine"})
        found = until(
            lambda: [r.fields for r in caplog.records if getattr(r, "fields", {}).get("request_id") == "mine"]
        )
    assert (found[0]["model"], found[0]["texts"]) == ("ce", 2)
    assert "private" not in json.dumps(found)


def test_openapi_describes_the_routes(client):
    document = client.get("/openapi.json").json
    for path in RERANK_PATHS:
        operation = document["paths"][path]["post"]
        assert {"200", "400", "422", "429"} <= set(operation["responses"])
        error = operation["responses"]["400"]["content"]["application/json"]["schema"]
        assert error == {"$ref": "#/components/schemas/ErrorResponse"}
    text = json.dumps(document)
    for name in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]


def test_health_and_preload_know_rerankers():
    with serving({"ce": MODELS["ce"]}, load=load) as server, server.client() as client:
        assert client.get("/health").status == 503  # one model is loaded at the start
        documents(client)
        assert client.get("/health").status == 200
        reranker = next(server.state.models.loaded).reranker
        reranker.healthy = False
        assert client.get("/health").json["status"] == "unhealthy"
        reranker.healthy = True
    assert not reranker.healthy  # given back
    assert ServerSettings().preload is None
