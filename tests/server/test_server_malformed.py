"""Malformed requests: never a 5xx, never a hang, never a traceback, and the next good request is served."""

import contextlib
import importlib.util
import json
import random
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from support.checkpoints import MULTI_VECTOR, REFERENCE, RERANKERS, SPARSE
from support.serving import serve_process
from support.waiting import PATIENCE_S, until

FORMS = ("/embed_sparse", "/pooling", "/api/v1/hybrid", "/api/v1/terms", "/api/v1/matches")
PATHS = ("/v1/embeddings", "/api/v1/embed", "/api/embed", "/api/show", "/rerank", "/v2/rerank", "/score", *FORMS)
GOOD = {
    "/v1/embeddings": {
        "input": ["a", "b"],
        "model": "m",
        "dimensions": 8,
        "encoding_format": "base64",
        "user": "u",
        "input_type": "query",
        "truncate": True,
    },
    "/api/v1/embed": {"texts": ["a", "b"], "model": "m", "pooling": "mean", "normalize": True},
    "/api/embed": {
        "input": ["a", "b"],
        "model": "m:query",
        "dimensions": 8,
        "options": {"num_ctx": 9},
        "keep_alive": 0,
    },
    "/api/show": {"model": "m", "verbose": True},
    "/embed_sparse": {"inputs": ["a", "b"], "truncate": True, "truncation_direction": "Right", "max_active_dims": 3},
    "/pooling": {"input": ["a", "b"], "task": "token_embed", "encoding_format": "base64", "model": "c:query"},
    "/api/v1/hybrid": {"texts": ["a"], "forms": ["dense"], "encoding_format": "float", "input_type": "document"},
    "/api/v1/terms": {"texts": ["a", "b"], "model": "s", "top_k": 3, "input_type": "passage"},
    "/api/v1/matches": {"query": "a", "text": "b", "model": "c", "top_k": 3},
    "/rerank": {"query": "q", "texts": ["a", "b"], "top_n": 1, "truncation_direction": "Right", "raw_scores": False},
    "/v2/rerank": {
        "query": "q",
        "documents": ["a", {"text": "b"}],
        "model": "ce",
        "top_n": 1,
        "return_documents": True,
    },
    "/score": {"text_1": "q", "text_2": ["a", "b"], "model": "ce", "use_activation": True},
}
ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", " ", "\x00", "\ud800", "\udfff\ud800", "\ufeff", "m" * 5000, "../../etc/passwd", "{}", "%00", "日本語" * 50),
    *([], {}, [[]], [{}], [None], [[[1]]], [1, "a"], ["a", 1], [[1], "a"], {"a": "b"}, {"": ""}, [""], ["a"] * 3000),
]
ODD_NAMES = ["inputs", "Input", "", "__proto__", "prompt", "stream", "n", "\x00"]


def odd_body(dice):
    """A body with something wrong, as bytes, and where to send it."""
    path = dice.choice(PATHS)
    body = dict(GOOD[path])
    kind = dice.randrange(9)
    if kind == 0:
        body[dice.choice(list(body))] = dice.choice(ODD_VALUES)
    elif kind == 1:
        for name in dice.sample(list(body), dice.randint(1, len(body))):
            del body[name]
    elif kind == 2:
        body[dice.choice(ODD_NAMES)] = dice.choice(ODD_VALUES)
    elif kind == 3:
        return path, json.dumps(dice.choice(ODD_VALUES)).encode("utf-8", "surrogatepass")
    text = json.dumps(body, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    if kind == 4:
        text = text[: dice.randrange(len(text))]
    elif kind == 5:
        where = dice.randrange(len(text))
        text = text[:where] + dice.randbytes(dice.randint(1, 8)) + text[where + dice.randrange(8) :]
    elif kind == 6:
        text = dice.randbytes(dice.randrange(300))
    elif kind == 7:
        depth = dice.choice([10, 300, 100_000])
        text = dice.choice([b"[" * depth, b'{"input":' * depth, b"[" * depth + b"]" * depth])
    elif kind == 8:
        utf16 = text.decode("utf-8", "replace").encode("utf-16")
        text = dice.choice([text * 2, text + b"\x00", b"\xef\xbb\xbf" + text, utf16, text + b"}"])
    return path, text


JSON = b"Content-Type: application/json\r\n"
ODD_LENGTHS = [b"-1", b"x", b"", b"9" * 30, b"1, 2", b"0x10", b"3", b"100000"]
ODD_CHUNKS = [b"zz\r\n", b"-5\r\n", b"5\r\nabc", b"0\r\n\r\n", b"ffffffffffff\r\n", b"1\r\na\r\n0\r\n\r\n"]
ODD_HEADERS = [
    b"Content-Type: text/plain",
    b"Content-Type:",
    b"Content-Type: " + b"a" * 500,
    b"Content-Encoding: br",
    b"Expect: 100-continue",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: close",
    b"Authorization: Bearer",
    b"Authorization: \xff\xfe",
    b"X: " + b"y" * 70_000,
    b"No colon here",
    b"A\x00B: c",
    b"Host: evil.example",
    b"X-Request-Id: \x7f" + b"z" * 300,
    b"Content-Length: 5",
    b"Transfer-Encoding: gzip, chunked",
]
ODD_METHODS = [b"GET", b"PUT", b"DELETE", b"TRACE", b"CONNECT", b"OPTIONS", b"HEAD", b"FOO", b"get", b"POST", b""]
ODD_TARGETS = [
    *(b"/%00", b"/%ff%fe", b"//v1/models", b"/v1/models/%2e%2e", b"/v1/models/" + b"a" * 9000, b"*", b"", b"http://e/"),
    *(
        b"/?" + b"q=1&" * 500,
        b"/v1/models/%0d%0aX:y",
        b"/v1/embeddings",
        b"/api/v1/embed",
        b"/rerank",
        b"/health",
        b"/metrics",
    ),
]
NO_HTTP = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n\r\n",
    b"\x00" * 50,
]
# What a server that still listens answers and hangs up on.
LAST = b"\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def odd_request(dice):
    """Bytes that are no good HTTP, or good HTTP that is no good request."""
    path, body = odd_body(dice)
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode()
    length = b"Content-Length: %d\r\n" % len(body)
    kind = dice.randrange(7)
    if kind == 0:
        return head + JSON + b"Content-Length: %b\r\n\r\n" % dice.choice(ODD_LENGTHS) + body
    if kind == 1:
        return head + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + dice.choice(ODD_CHUNKS)
    if kind == 2:
        return head + dice.choice([JSON, b""]) + length + dice.choice(ODD_HEADERS) + b"\r\n\r\n" + body
    if kind == 3:
        version = dice.choice([b"1.1", b"1.0", b"0.9", b"2.0", b"x"])
        return b"%b %b HTTP/%b\r\nHost: localhost\r\n\r\n" % (
            dice.choice(ODD_METHODS),
            dice.choice(ODD_TARGETS),
            version,
        )
    if kind == 4:
        return dice.choice([*NO_HTTP, dice.randbytes(dice.randrange(1, 400))])
    if kind == 5:
        return head.replace(b"Host: localhost\r\n", b"") + JSON + length + b"\r\n" + body
    return (head + JSON + length + b"\r\n" + body) * 3


def send(port, request):
    """Send, and read until the server closes; what it said."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        said = b""
        try:
            connection.sendall(request + LAST)
            while some := connection.recv(65536):
                said += some
        except (BrokenPipeError, ConnectionResetError):
            pass
        return said


def statuses(said):
    return [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]


def figures(client):
    """Answers by status, from the server's own count; /health says 503 while a model is loading."""
    counted = {}
    for line in client.get("/metrics").body.decode().splitlines():
        if line.startswith("akidb_mlx_http_requests_total{") and "/health" not in line:
            status = line.partition('status="')[2][:3]
            counted[status] = counted.get(status, 0) + int(float(line.rpartition(" ")[2]))
    return counted


@contextlib.contextmanager
def small_server(*more):
    models = ("--model", f"m={REFERENCE / 'bert-prompts'}", "--reranker", f"ce={RERANKERS / 'bert'}")
    forms = ("--sparse", f"s={SPARSE / 'bert-max'}", "--multi", f"c={MULTI_VECTOR / 'fixed'}")
    options = (*models, *forms, "--max-request-bytes", "200000", *more)
    with serve_process(*options) as server:
        with server.client() as client:
            until(lambda: client.get("/health").status == 200)
        yield server


@pytest.fixture
def impatient():
    """Half a body is waited for as long as the tests can afford to, and a whole one comes on a busy machine."""
    with small_server("--body-timeout-s", "1") as server:
        yield server


def pelt(server, count, seed):
    """Hand-made requests, half of them broken below HTTP; each is answered or hung up on."""
    dice = random.Random(seed)
    with server.client() as client:
        for _ in range(count // 2):
            path, body = odd_body(dice)
            answer = client.post(path, body)
            assert answer.status < 500, (path, body[:500], answer.body)
            if answer.status != 200:
                answer.error  # noqa: B018  # its shape
    requests = [odd_request(dice) for _ in range(count - count // 2)]
    with ThreadPoolExecutor(16) as threads:  # the server waits for the rest of many of them
        answers = list(threads.map(partial(send, server.port), requests))
    for request, said in zip(requests, answers, strict=True):
        assert b"Traceback" not in said
        assert all(status < 500 for status in statuses(said)), (request[:500], said[:500])
    assert sum(map(bool, answers)) > count // 4


def check(server):
    with server.client() as client:
        assert not [status for status in figures(client) if status >= "500"]
        assert client.get("/health").json["status"] == "ok"
        assert client.embed("still here", "m").status == 200
    assert not [line for line in server.log if line["level"] == "error" or "traceback" in line]


def test_hand_made_malformed_requests(impatient):
    pelt(impatient, 600, seed=1)
    check(impatient)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis (the extra [clients])")
def test_ten_thousand_malformed_requests(impatient, tmp_path):
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", "--seed", "6", "--mode", "all"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "1200", "--continue-on-failure"]
    # random names of models, prompts and poolings fit the schema, and are rightly refused
    command += ["--exclude-checks", "positive_data_acceptance", "--request-timeout", "60"]
    command += ["--suppress-health-check", "all", "--no-shrink"]
    with small_server() as server:
        command.append(f"{server.url}/openapi.json")
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        check(server)
        with server.client() as client:
            fuzzed = figures(client)
    hand_made = max(2000, 10_000 - sum(fuzzed.values()))
    pelt(impatient, hand_made, seed=2)
    check(impatient)
    with impatient.client() as client:
        by_hand = f"{hand_made} by hand, of those {figures(client)} were HTTP"
        sys.stdout.write(f"schemathesis {sum(fuzzed.values())} {fuzzed}; {by_hand}\n")
