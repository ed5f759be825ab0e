"""Servers that are not there, full, in the middle of a restart, another one than before, or none of ours."""

import asyncio
import contextlib
import http.server
import json
import multiprocessing
import os
import pickle
import random
import socket
import threading
import time

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig, RemoteEmbedder, errors
from akidb_mlx.remote import connection
from akidb_mlx.remote.address import Address
from akidb_mlx.remote.answers import error_of
from support.checkpoints import PROMPTS
from support.comparison import assert_close
from support.serving import serving
from support.waiting import PATIENCE_S


class Scripted:
    """A proxy of `serving`'s server: the next answers are what the test says, then the server's own."""

    def __init__(self, server):
        self.answers = []
        self.answered = lambda body: None
        """What one of several requests under way is answered, where its turn is not known."""
        self.asked = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((self.path, time.monotonic(), dict(self.headers)))
                scripted = None
                if self.path == "/api/v1/rows":
                    scripted = outer.answers.pop(0) if outer.answers else outer.answered(body)
                if scripted == "close":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if scripted is None:
                    with server.client() as client:
                        answer = client.post(self.path, body)
                        status, headers, content = answer.status, dict(answer.headers), answer.body
                else:
                    status, headers, content = scripted
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "date"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    @property
    def rows_asked(self):
        return [when for path, when, _ in self.asked if path == "/api/v1/rows"]

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.http.shutdown()
            self.http.server_close()
            thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def server():
    with serving({"m": PROMPTS}) as running:
        yield running


@pytest.fixture
def scripted(server):
    with Scripted(server).running() as proxy:
        yield proxy


@pytest.fixture
def there(scripted):
    with RemoteEmbedder.load("m", base_url=scripted.url) as embedder:
        yield embedder


def problem(status, code=None, error=None, message="words", **headers):
    body = {"error": {"message": message, "type": "t", "param": None, "code": code}}
    named = {} if error is None else {"X-Akidb-Error": error}
    return status, {"Content-Type": "application/json", **headers, **named}, json.dumps(body).encode()


FULL = problem(429, "rate_limit_exceeded", "QueueFullError", **{"Retry-After": "1", "Retry-After-Ms": "30"})


# ── errors keep their class and words ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name not in ("AkiDBMLXError", "ClosedError")])
def test_the_servers_errors_keep_class_and_words(there, scripted, name):
    scripted.answers = [problem(400, error=name, message="text 3 is wrong")]
    with pytest.raises(getattr(errors, name)) as caught:
        there.encode(["a"])
    assert type(caught.value) is getattr(errors, name)
    assert str(caught.value) == "text 3 is wrong"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, None, errors.InputError),
        (400, "wrong_kind", errors.UnsupportedModelError),
        (401, "invalid_api_key", errors.ConfigError),
        (403, None, errors.ConfigError),
        (404, "model_not_found", errors.ModelNotFoundError),
        (404, None, errors.ConfigError),
        (409, "other_fingerprint", errors.ConfigError),
        (413, None, errors.InputError),
        (429, "rate_limit_exceeded", errors.QueueFullError),
        (500, None, errors.BackendError),
        (504, "timeout", errors.BackendError),
    ],
)
def test_where_no_class_is_named_code_and_status_say_it(there, scripted, status, code, expected):
    scripted.answers = [problem(status, code)]
    with pytest.raises(expected, match="words") as caught:
        there.encode(["a"])
    assert type(caught.value) is expected


def test_a_class_that_this_version_does_not_know_is_a_backend_error():
    for name in ("NewError", "os", "__all__", "AkiDBMLXErrors"):
        status, headers, body = problem(418, error=name)
        assert type(error_of(status, headers, body, "url")) is errors.BackendError


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "7", "Retry-After-Ms": "6500"}, 6.5),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, 1),
        ({}, 1),
    ],
)
def test_when_to_come_again_is_the_servers_word(said, seconds):
    status, headers, body = problem(429, error="QueueFullError", **said)
    error = error_of(status, headers, body, "url")
    assert (type(error), error.retry_after_s) == (errors.QueueFullError, seconds)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, {}, b"hello"), errors.BackendError),
        ((200, {"X-Akidb-Arrays": "rows float32 9 9"}, b"1234"), errors.BackendError),
        ((404, {}, b"<html>not here</html>"), errors.ConfigError),
        ((502, {"Retry-After": "3"}, b"bad gateway"), errors.BackendError),
        ((404, {}, json.dumps({"detail": "Not Found"}).encode()), errors.ConfigError),
    ],
)
def test_what_is_no_answer_of_ours_is_told(server, scripted, answer, expected):
    with RemoteEmbedder.load("m", base_url=scripted.url) as there:
        status, headers, body = answer
        scripted.answers = [(status, {"X-Akidb-Fingerprint": there.fingerprint, **headers}, body)]
        with pytest.raises(expected, match=scripted.url):
            there.encode(["a"])


def test_a_server_without_our_routes_is_told():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(501)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with pytest.raises(errors.BackendError, match="no akidb-mlx server: HTTP 501"):
                RemoteEmbedder.load("m", base_url=f"http://127.0.0.1:{other.server_port}")
        finally:
            other.shutdown()
            thread.join(PATIENCE_S)


# ── nobody there ─────────────────────────────────────────────────────────────────────────────────────


def free_port():
    """One that the system gives to nobody who asks for any: those are above."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


def test_where_no_server_runs_the_error_says_how_to_start_one():
    port = free_port()
    with pytest.raises(errors.BackendError) as caught:
        RemoteEmbedder.load("org/model", base_url=f"http://127.0.0.1:{port}")
    assert str(caught.value).endswith(f"start one: akidb-mlx serve --model org/model --port {port}")
    assert connection._connections == {} or all(str(port) not in one.base_url for one in connection._connections)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore2 leaves the socket open
def test_where_no_socket_is_the_error_says_how_to_start_one(tmp_path):
    with pytest.raises(errors.BackendError, match=f"start one: akidb-mlx serve --model m --uds {tmp_path}/s"):
        RemoteEmbedder.load("m", base_url=f"unix://{tmp_path}/s")


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://here",
        "http://",
        "http://here:port",
        "http://here/?a=1",
        "unix:s",
        "http://u:p@here",
    ],
)
def test_what_is_no_address_is_refused(base_url):
    with pytest.raises(errors.ConfigError, match="base_url") as caught:
        Address(base_url)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"base_url": None}, TypeError, "base_url must be a str, not a NoneType"),
        ({"api_key": 7}, TypeError, "api_key must be a str, not a int"),
        ({"timeout_s": "60"}, TypeError, "timeout_s must be a number of seconds, not '60'"),
        ({"timeout_s": True}, TypeError, "timeout_s must be a number of seconds, not True"),
        ({"timeout_s": 0}, errors.ConfigError, "timeout_s is 0; it must be more than 0"),
        ({"timeout_s": float("inf")}, errors.ConfigError, "timeout_s is inf; it must be more than 0"),
    ],
)
def test_what_an_address_is_made_of(given, error, message):
    with pytest.raises(error) as caught:
        Address(**{"base_url": "http://127.0.0.1:8000", **given})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "url", "path", "command"),
    [
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080", None, "akidb-mlx serve --model m --port 8080"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080", None, "akidb-mlx serve --model m --port 8080"),
        ("https://gpu.example/ai", "https://gpu.example/ai", None, "akidb-mlx serve --model m --host gpu.example"),
        (
            "unix:///run/a b.sock",
            "http://localhost",
            "/run/a b.sock",
            "akidb-mlx serve --model m --uds '/run/a b.sock'",
        ),
        ("http+unix://%2Frun%2Fs", "http://localhost", "/run/s", "akidb-mlx serve --model m --uds /run/s"),
    ],
)
def test_addresses(base_url, url, path, command):
    address = Address(base_url, "secret")
    assert (address.url, address.socket) == (url, path)
    assert address.command("--model", "m") == command
    assert "secret" not in repr(address) + str(address)


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_told(scripted, server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(errors.BackendError, match="gave no answer within 0.2 s"):
            RemoteEmbedder.load("m", base_url=url, timeout_s=0.2)


# ── full, lost, restarted ────────────────────────────────────────────────────────────────────────────


def test_documents_that_may_wait_come_again_when_they_were_told_to(there, scripted):
    scripted.answers = [FULL, FULL]
    there.encode_document(["a"], wait=True)
    first, second, third = scripted.rows_asked
    assert second - first >= 0.03 and third - second >= 0.03
    scripted.answers = [FULL, FULL]
    asyncio.run(there.aencode_document(["a"], wait=True))
    scripted.answers = [FULL]
    assert len(list(there.encode_stream(["a"]))) == 1


def test_whoever_does_not_wait_is_told_when_to_come_again(there, scripted):
    for call in (there.encode, there.encode_query, there.encode_document):
        scripted.answers = [FULL]
        with pytest.raises(errors.QueueFullError) as caught:
            call(["a"])
        assert caught.value.retry_after_s == 0.03
    assert len(scripted.rows_asked) == 3


def test_of_a_long_call_the_first_request_is_refused_the_others_wait(there, scripted):
    texts = [f"text {place}" for place in range(600)]
    whole = there.encode(texts)
    scripted.answered = lambda body: FULL if b'"text 0"' in body else None
    with pytest.raises(errors.QueueFullError):
        there.encode(texts)
    waiting = [FULL, FULL]
    scripted.answered = lambda body: waiting.pop() if b'"text 599"' in body and waiting else None
    assert_close(there.encode(texts), whole, 1e-5)
    assert not waiting


def test_a_stream_waits_for_memory_that_is_short(there, scripted, monkeypatch):
    monkeypatch.setattr("akidb_mlx.pipeline.text_pipeline._PAUSES_S", (0.01, 0.01))
    short = problem(503, "out_of_memory", "BackendError", **{"Retry-After": "1"})
    scripted.answers = [short, short]
    assert len(next(iter(there.encode_stream(["a"])))) == 1
    scripted.answers = [short]
    with pytest.raises(errors.BackendError) as caught:
        there.encode(["a"])
    assert caught.value.retry_after_s == 1


def test_a_connection_that_is_lost_is_made_anew(there, scripted):
    row = there.encode(["a"])
    scripted.answers = ["close", "close"]
    assert np.array_equal(there.encode(["a"]), row)
    scripted.answers = ["close", "close", "close"]
    with pytest.raises(errors.BackendError, match="the connection to .* was lost"):
        there.encode(["a"])
    scripted.answers = ["close"] * 4
    assert np.array_equal(there.encode_document(["a"], wait=True), there.encode_document(["a"]))


def test_rows_of_another_model_are_never_mixed_with_the_first(there, scripted):
    rows = np.zeros((1, 16), np.float32)
    headers = {"X-Akidb-Fingerprint": "0" * 64, "X-Akidb-Arrays": "rows float32 1 16", "X-Akidb-Tokens": "3"}
    for call in (
        lambda: there.encode(["a"]),
        lambda: asyncio.run(there.aencode(["a"])),
        lambda: next(there.encode_stream(["a"])),
    ):
        scripted.answers = [(200, headers, rows.tobytes())]
        with pytest.raises(
            errors.ConfigError, match="gives other rows than at first .*started anew with another model"
        ):
            call()
    scripted.answers = [(200, {"X-Akidb-Arrays": "rows float32 1 16"}, rows.tobytes())]
    with pytest.raises(errors.ConfigError, match="now None"):
        there.encode(["a"])


def test_documents_outlast_a_restart_and_another_model_after_it_is_refused(monkeypatch):
    monkeypatch.setattr(connection, "_RESTART_S", PATIENCE_S)
    port = free_port()

    def serve(model):
        return serving({"m": model}, at=port)

    with serve(PROMPTS):
        there = RemoteEmbedder.load("m", base_url=f"http://127.0.0.1:{port}")
        row = there.encode_document(["a"])
    with pytest.raises(errors.BackendError, match="no server answers"):
        RemoteEmbedder.load("m", base_url=f"http://127.0.0.1:{port}")
    with pytest.raises(errors.BackendError, match="no server answers"):  # nobody is kept waiting for a query
        there.encode_query(["a"])
    again = threading.Thread(target=lambda: found.append(there.encode_document(["a"], wait=True)))
    found = []
    again.start()
    with serve(PROMPTS):
        again.join(PATIENCE_S)
        assert_close(found[0], row)
    with serve(EmbedderConfig(model=PROMPTS, pooling="cls")):
        with pytest.raises(errors.ConfigError, match="has the fingerprint .* here, not"):
            there.encode_document(["a"], wait=True)
        with pytest.raises(errors.ConfigError, match="gives other rows than at first"):
            there.info()
        assert not there.healthy
    there.close()


# ── giving up, processes ─────────────────────────────────────────────────────────────────────────────


async def test_cancelling_a_call_takes_it_off_the_server():
    begun, gone = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            begun.set()
            while self.connection.recv(1):
                pass
            gone.set()
            self.close_connection = True

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            address = Address(f"http://127.0.0.1:{other.server_port}")
            held = connection.connect(address)
            future = held.submit("/x", b"{}", wait=False, command="", take=lambda answer: answer)
            task = asyncio.ensure_future(asyncio.wrap_future(future))
            await asyncio.to_thread(begun.wait, PATIENCE_S)
            task.cancel()
            assert await asyncio.to_thread(gone.wait, PATIENCE_S)
            connection.release(address)
        finally:
            other.shutdown()
            thread.join(PATIENCE_S)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_and_a_spawned_one_have_connections_of_their_own(server):
    there = RemoteEmbedder.load("m", base_url=server.url)
    rows = there.encode(["a"]), asyncio.run(there.aencode(["b"]))
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        child = context.Process(target=_in_a_child, args=(pickle.dumps(there), queue))
        child.start()
        found = queue.get()
        child.join(PATIENCE_S)
        assert child.exitcode == 0
        for one, other in zip(found, rows, strict=True):
            assert_close(one, other)
    if hasattr(os, "fork"):
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_use, args=(there, queue))  # as it is, not pickled
        child.start()
        assert_close(queue.get()[0], rows[0])
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    assert_close(there.encode(["a"]), rows[0])
    there.close()


def _in_a_child(pickled, queue):
    _use(pickle.loads(pickled), queue)


def _use(there, queue):
    queue.put((there.encode(["a"]), asyncio.run(there.aencode(["b"]))))
    there.close()


def test_the_last_one_to_close_ends_the_connections(server):
    first = RemoteEmbedder.load("m", base_url=server.url)
    second = RemoteEmbedder.load("m", base_url=server.url)
    assert connection._connections[Address(server.url)].users == 2
    first.close()
    first.close()
    second.encode(["a"])
    second.close()
    assert Address(server.url) not in connection._connections


def test_a_key_is_sent_from_the_argument_or_the_variable_and_told_nowhere(monkeypatch):
    with serving({"m": PROMPTS}, api_key="secret") as locked:
        for key, variable in ((None, None), ("other", "secret"), (None, "other")):
            monkeypatch.setenv("AKIDB_API_KEY", variable or "")
            with pytest.raises(errors.ConfigError, match="give it as api_key=, or in the variable AKIDB_API_KEY"):
                RemoteEmbedder.load("m", base_url=locked.url, api_key=key)
        with RemoteEmbedder.load("m", base_url=locked.url, api_key="secret") as there:
            assert b"secret" in pickle.dumps(there) and "secret" not in repr(there) + str(there.info())
        monkeypatch.setenv("AKIDB_API_KEY", "secret")
        with RemoteEmbedder.load("m", base_url=locked.url) as there:
            assert b"secret" not in pickle.dumps(there)
            there.encode(["a"])


def test_no_http_client_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'akidb-mlx\[remote\]'"):
        RemoteEmbedder.load("m", base_url="http://127.0.0.1:9")


def test_a_proxy_is_not_asked_for_what_is_here(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
    with RemoteEmbedder.load("m", base_url=server.url) as there, Embedder.load(PROMPTS) as here:
        assert np.array_equal(there.encode(["a"]), here.encode(["a"]))
        assert np.array_equal(asyncio.run(there.aencode(["a"])), here.encode(["a"]))


class _Door:
    """A lock that lets another thread's work in as soon as it is left."""

    def __init__(self, then):
        self._then = [then]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self._then:
            self._then.pop()()


def test_who_comes_while_the_last_one_leaves_has_a_connection_that_counts(monkeypatch):
    address = Address("http://127.0.0.1:9")
    connection.hold(address)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(connection, "_lock", _Door(lambda: connection.release(address)))
        connection.hold(address)
    assert connection._connections[address].users == 1
    connection.release(address)
    assert address not in connection._connections
