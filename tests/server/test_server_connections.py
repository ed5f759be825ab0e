"""Connections when there are few file descriptors, offers to upgrade, messages that repeat."""

import asyncio
import errno
import io
import json
import logging
import socket
import sys
import threading
from types import SimpleNamespace

import pytest

from akidb_mlx.server import logs, middleware
from akidb_mlx.server.connections import Listening, _Joining
from akidb_mlx.server.descriptors import connections_within
from akidb_mlx.server.logs import CountedLines, JsonLines
from akidb_mlx.server.middleware import Gate
from akidb_mlx.server.models import Models
from akidb_mlx.server.settings import ServerSettings
from akidb_mlx.server.state import State
from support.checkpoints import REFERENCE
from support.serving import Client, serve_process
from support.waiting import until

JAVA = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "User-Agent": "Java-http-client/17",
}


@pytest.fixture
def few_descriptors(tmp_path):
    """A Python that may open 64 files and no more."""
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -n 64\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    return limited


def test_few_descriptors_make_connections_wait_and_offers_to_upgrade_are_left_alone(few_descriptors):
    with serve_process("--model", f"m={REFERENCE / 'bert-prompts'}", python=few_descriptors) as server:
        with server.client() as client:
            until(lambda: client.get("/health").status == 200)
            body = {"input": ["hello"], "model": "m"}
            assert [client.post("/v1/embeddings", body, JAVA).status for _ in range(2)] == [200, 200]
        before = len(server.log)
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(90)]
        statuses = []

        def ask():
            with Client(server.port) as client:
                statuses.append(client.embed("a cat", "m").status)

        threads = [threading.Thread(target=ask) for _ in range(90)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 90
        for connection in idle:
            connection.close()
        with server.client() as client:
            assert client.embed("after", "m").status == 200
        said = [line for line in server.log if line["message"] not in ("request", "model loaded", "listening")]
        assert len(said) == 1, said
        assert "only 64 files may be open" in said[0]["message"]
        until(lambda: sum(line.get("status") == 200 for line in server.log[before:]) >= 91)
        assert len(server.raw) == len(server.log)  # no traceback


class Short(socket.socket):
    """A listener for which no descriptor is left."""

    calls = 0

    def accept(self):
        Short.calls += 1
        raise OSError(errno.EMFILE, "Too many open files")


async def test_accept_that_fails_is_said_once_a_second_and_tried_again(caplog):
    listener = Short()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listening = Listening(listener, None, [], 100)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(9)]
    await asyncio.sleep(1.2)
    listening.close()
    listening.close()
    for client in clients:
        client.close()
    assert 1 <= Short.calls <= 2
    said = [record for record in caplog.records if "no connection can be taken" in record.getMessage()]
    assert len(said) == Short.calls


def test_room_for_connections():
    assert connections_within(1) == 1
    assert 9_000 < connections_within(10_000) < 10_000


def test_equal_warnings_are_counted(monkeypatch):
    timers = []

    class Timer:
        """A second passes when the test says so."""

        def __init__(self, seconds, tell, args):
            assert seconds == 1.0
            self.pass_by = lambda: tell(*args)

        def start(self):
            timers.append(self)

    monkeypatch.setattr(logs, "threading", SimpleNamespace(Timer=Timer))
    stream = io.StringIO()
    handler = CountedLines(stream)
    handler.setFormatter(JsonLines())
    log = logging.Logger("test")
    log.addHandler(handler)
    for _ in range(5):
        log.warning("the same")
        log.info("a request")
    log.warning("another")

    def lines():
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    assert [line["message"] for line in lines()].count("a request") == 5
    assert [line["message"] for line in lines()].count("the same") == 1
    while timers:
        timers.pop().pass_by()
    (counted,) = [line for line in lines() if "repeated" in line]
    assert (counted["message"], counted["repeated"]) == ("the same", 4)
    assert [line["message"] for line in lines()].count("another") == 1
    log.warning("the same")  # a second later it is said anew
    assert [line["message"] for line in lines()].count("the same") == 3


def test_an_answer_is_sent_before_its_line_is_logged(monkeypatch):
    """What a connection writes goes in the event loop's next turn; a line in the log must not stand before that."""
    order = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask():
        transport = SimpleNamespace(write=lambda data: order.append("sent"), is_closing=lambda: False)
        joining = _Joining(transport, asyncio.get_running_loop())

        async def send(message):
            joining.write(message["type"].encode())

        gate = Gate(app, State(ServerSettings(), Models({}), None), frozenset({"/v1/embeddings"}))
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": []}
        await gate(scope, None, send)
        await asyncio.sleep(0)

    monkeypatch.setattr(middleware._log, "log", lambda *_, **fields: order.append(fields["extra"]["fields"]["status"]))
    asyncio.run(ask())
    assert order == ["sent", 200]
