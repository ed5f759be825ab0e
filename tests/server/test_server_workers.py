"""`serve --workers`: one address, several processes; each its GPU, dead ones started again, a stop that drains all."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from test_server_process import run_serve

from akidb_mlx.device import visible
from akidb_mlx.errors import ConfigError
from akidb_mlx.server import running, workers
from akidb_mlx.server.metrics import joined
from akidb_mlx.server.settings import make_settings
from akidb_mlx.server.team import ABSENT, Share, add_up
from akidb_mlx.server.workers import plan_workers
from support.checkpoints import REFERENCE
from support.comparison import assert_close
from support.serving import Client, serve_process
from support.waiting import PATIENCE_S, until

TINY = REFERENCE / "bert-prompts"
TEXTS = [f"text {number}" for number in range(40)]


@pytest.fixture
def pretended(monkeypatch):
    """A machine with so many GPUs, as far as the driver's count and the installed build tell."""

    def make(gpus, said=None):
        monkeypatch.setattr(visible, "distributions", lambda: [SimpleNamespace(metadata={"Name": "mlx-cuda-13"})])
        monkeypatch.setattr(visible, "_count", lambda: gpus)
        if said is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)

    return make


def cards(wanted, devices=(None,)):
    return [one.get("CUDA_VISIBLE_DEVICES") for one in plan_workers(wanted, devices)]


def test_each_worker_sees_one_card_and_its_share_of_the_cores(pretended, monkeypatch, caplog):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    pretended(4)
    assert cards("auto") == ["0", "1", "2", "3"]
    assert cards(2) == ["0", "1"]
    assert cards(1) == [None]
    assert not caplog.messages
    monkeypatch.setattr(workers, "available_cores", lambda: 32)
    assert plan_workers(2, [None]) == [{"CUDA_VISIBLE_DEVICES": card, "OPENBLAS_NUM_THREADS": "16"} for card in "01"]
    assert cards(6) == ["0", "1", "2", "3", "0", "1"]
    assert "6 workers share 4 GPU(s): each loads the models" in caplog.messages[0]


def test_cards_are_those_that_the_user_left_visible(pretended):
    pretended(2, "GPU-aa, GPU-bb")
    assert cards("auto") == ["GPU-aa", "GPU-bb"]
    pretended(2, "3,1,-1,0")  # what stands behind -1 is not seen, and the driver counts so
    assert cards("auto") == ["3", "1"]
    pretended(0, "")
    assert cards("auto") == [None]


def test_without_a_gpu_auto_is_one_and_more_share_the_cores(pretended, monkeypatch, caplog):
    monkeypatch.setattr(visible, "distributions", list)
    monkeypatch.setattr(workers, "available_cores", lambda: 8)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert plan_workers("auto", [None]) == [{}]
    assert not caplog.messages
    assert plan_workers(3, [None]) == [{"OPENBLAS_NUM_THREADS": "2"}] * 3
    assert "3 workers share one device, all of which one process can use: each loads the models" in caplog.messages[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert plan_workers(2, [None]) == [{}, {}]
    pretended(4)
    assert plan_workers("auto", ["cpu", "cpu"]) == [{}]
    assert cards("auto", ["cpu", None]) == ["0", "1", "2", "3"]


def test_settings_take_a_number_or_auto():
    assert make_settings({"workers": "3"}).workers == 3
    assert make_settings({"workers": "auto"}).workers == "auto"
    assert make_settings({}).workers == 1
    for wrong in (0, -1, "some"):
        with pytest.raises(ConfigError, match="workers = "):
            make_settings({"workers": wrong})


def test_connections_go_to_whoever_has_fewest():
    board = [0, 0, ABSENT]
    a, b, away = (Share(board, index) for index in range(3))
    assert a.is_next(0, 0.0)
    a.tell(1)
    assert not a.is_next(1, 0.0)
    assert b.is_next(0, 0.0)
    assert not away.is_next(0, 1.0)  # it is not ready: the others take them
    away.tell(5)
    assert board[2] == ABSENT
    assert not a.is_next(1, 0.03)
    assert a.is_next(1, 0.06)  # the other one does not take it
    assert a.is_next(2, 0.06) and a.is_next(3, 0.07)  # nor the next ones: it is not waited for each time
    board[1] = 1
    assert not a.is_next(4, 0.08)  # it lives
    assert not a.is_next(4, 0.20)  # nobody waited since
    board[:] = [ABSENT] * 3
    assert away.is_next(0, 0.0)  # nobody is ready: who is asked says so
    away.is_ready()
    assert board[2] == 0


@pytest.mark.parametrize("stopping", [True, False])
def test_a_worker_that_stops_while_it_loads_takes_no_share(stopping):
    """On the board it would be the one with the fewest connections, for which all others wait."""
    share = Share([ABSENT, 3], 0)
    state = SimpleNamespace(
        preloads=False, stopping=stopping, team=SimpleNamespace(share=share), models=SimpleNamespace(configs={})
    )
    greeted = []
    asyncio.run(running._preload(state, SimpleNamespace(), [], lambda *given: greeted.append(given)))
    assert share.board[0] == (ABSENT if stopping else 0)
    assert len(greeted) == (not stopping)


def test_pauses_grow_where_a_worker_never_gets_ready_however_long_it_takes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    supervisor = workers._Supervisor([{}, {}], SimpleNamespace(), lambda: None)
    first, worker = supervisor._workers
    first.ready = True

    def lives(seconds, ready_after=None):
        """The pause after a life of that length."""
        worker.process = SimpleNamespace(join=lambda *_: None, exitcode=1)
        worker.ready, worker.pipe = False, None
        if ready_after is not None:
            now[0] += ready_after
            worker.pipe = SimpleNamespace(recv=lambda: None, close=lambda: None)
            supervisor._hear(worker)
            seconds -= ready_after
        now[0] += seconds
        supervisor._died(worker)
        return worker.again_at - now[0]

    assert [lives(70) for _ in range(3)] == [0.5, 2.0, 8.0]
    assert lives(100, ready_after=70) == 30.0
    assert lives(200, ready_after=70) == 0.5
    assert lives(1, ready_after=0.5) == 2.0
    for pipe in (supervisor._woken, supervisor._wake):
        os.close(pipe)


def test_figures_of_all_workers_are_told_apart():
    text = b'# HELP x_total Things.\n# TYPE x_total counter\nx_total{model="m"} %d\n'
    lines = joined({1: text % 5, 0: text % 3}).decode().splitlines()
    assert 'x_total{model="m",worker="0"} 3.0' in lines
    assert 'x_total{model="m",worker="1"} 5.0' in lines
    assert sum(line.startswith("# TYPE") for line in lines) == 1


def test_stats_of_all_workers_are_summed():
    def stats(tokens, idle, loaded):
        model = {"kind": "embedder", "loaded": loaded, "tokens": tokens, "idle_s": idle, "keep_alive": 5.0}
        return {"models": {"m": model}, "weights_bytes": 10, "resident_bytes": 100}

    assert add_up([stats(3, None, False), stats(4, 2.0, True), stats(0, 1.0, False)]) == {
        "models": {"m": {"kind": "embedder", "loaded": True, "tokens": 7, "idle_s": 1.0, "keep_alive": 5.0}},
        "weights_bytes": 30,
        "resident_bytes": 300,
    }


# ── processes ────────────────────────────────────────────────────────────────────────────────────────


def serving_now(client):
    answer = client.get("/health")
    return answer.json["workers"]["serving"] if answer.status == 200 else 0


def answering(port):
    with Client(port) as client:
        return client.get("/health").json["workers"]["answering"]


def by_worker(client, name):
    lines = client.get("/metrics").body.decode().splitlines()
    told = [line for line in lines if line.startswith(name)]
    return {
        number: sum(float(line.rpartition(" ")[2]) for line in told if f'worker="{number}"' in line) for number in "01"
    }


def pids(server):
    """Of each worker the latest."""
    return {one["number"]: one["pid"] for one in server.log if one["message"] == "worker started"}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_workers_behind_one_port(tiny):
    expected = tiny.encode_document(TEXTS)
    with serve_process("--model", f"m={TINY}", "--workers", "2") as server:
        with server.client() as client:
            until(lambda: serving_now(client) == 2)
            assert client.get("/health").json["workers"]["of"] == 2

        def ask(_):
            with Client(server.port) as client:
                answers = [client.embed(TEXTS, "m", input_type="document") for _ in range(3)]
                return [[item["embedding"] for item in answer.json["data"]] for answer in answers]

        asked = 0

        def texts_of_both():
            """A worker that has no time to answer another one is left out."""
            texts = by_worker(client, "akidb_mlx_texts_total")
            return texts if sum(texts.values()) == asked * 3 * len(TEXTS) + 2 else None  # and each one's warm-up

        def shared():
            """Soon: a worker that gets no time for a while takes its share later."""
            nonlocal asked
            with ThreadPoolExecutor(8) as threads:
                for rows in threads.map(ask, range(16)):
                    assert_close(rows[0], expected, tolerance=3e-6)
            asked += 16
            texts = until(texts_of_both)
            return texts if min(texts.values()) > 0.2 * max(texts.values()) else None

        with server.client() as client:
            texts = until(shared)
            until(lambda: client.get("/stats").json["models"]["m"]["texts"] == sum(texts.values()))
            one = client.get("/stats?worker=own").json
            assert one["models"]["m"]["texts"] in texts.values()
        assert server.stop(signal.SIGTERM) == 0
        assert not [one for one in server.log if one["level"] == "error"]
        assert {one["worker"] for one in server.log if one["message"] == "model loaded"} == {0, 1}
        assert not any(map(alive, pids(server).values()))


def test_a_worker_that_dies_is_started_again_and_the_other_one_serves():
    with serve_process("--model", f"m={TINY}", "--workers", "2") as server:
        with server.client() as client:
            until(lambda: serving_now(client) == 2)
        os.kill(pids(server)[1], signal.SIGKILL)
        until(lambda: any("a worker ended" in one["message"] for one in server.log))
        for _ in range(4):
            with server.client() as client:
                assert client.embed(["a text"], "m").status == 200
        with server.client() as client:
            until(lambda: serving_now(client) == 2)
        seen = set()
        until(lambda: seen.add(answering(server.port)) or len(seen) == 2)
        (told,) = [one for one in server.log if "a worker ended" in one["message"]]
        assert told["exit_code"] == -9
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_all_workers_accepted(signal_):
    patient = ("--body-timeout-s", PATIENCE_S, "--shutdown-timeout-s", PATIENCE_S)
    with serve_process("--model", f"m={TINY}", "--workers", "2", *patient) as server:
        with server.client() as client:
            until(lambda: serving_now(client) == 2)
        body = json.dumps({"input": ["late"], "model": "m"}).encode()
        slow = [Client(server.port) for _ in range(6)]
        for client in slow:
            client.connection.putrequest("POST", "/v1/embeddings")
            client.connection.putheader("Content-Type", "application/json")
            client.connection.putheader("Content-Length", str(len(body)))
            client.connection.endheaders(body[:5])
        with server.client() as client:
            until(lambda: sum(by_worker(client, "akidb_mlx_http_requests_in_flight").values()) >= 6)
        server.process.send_signal(signal_)
        until(lambda: sum(one["message"] == "stopping" for one in server.log) == 2)
        for client in slow:
            client.connection.send(body[5:])
        assert [client.connection.getresponse().status for client in slow] == [200] * 6
        for client in slow:
            client.connection.close()
        assert server.process.wait(PATIENCE_S) == 0


def test_workers_end_when_the_first_process_is_killed():
    with serve_process("--model", f"m={TINY}", "--workers", "2") as server:
        with server.client() as client:
            until(lambda: serving_now(client) == 2)
        assert set(pids(server)) == {0, 1}
        server.process.kill()
        until(lambda: not any(map(alive, pids(server).values())))


def test_a_model_that_cannot_be_loaded_is_one_clear_error(tmp_path):
    done = run_serve(tmp_path / "nothing", "--workers", "2", "--port", "0")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("akidb-mlx: ")
    assert "nothing" in last


def test_an_api_key_guards_what_workers_ask_each_other():
    with serve_process("--model", f"m={TINY}", "--workers", "2", variables={"AKIDB_API_KEY": "secret"}) as server:
        with server.client() as client:
            until(lambda: serving_now(client) == 2)
            assert client.get("/metrics").status == 401
            key = {"Authorization": "Bearer secret"}
            until(lambda: all(worker in client.get("/metrics", key).body for worker in (b'worker="0"', b'worker="1"')))
        assert server.stop(signal.SIGTERM) == 0


def test_the_process_that_starts_workers_imports_no_mlx():
    """Of the CUDA build that alone would take memory of a GPU, and the workers' cards are chosen before it."""
    program = "import sys, akidb_mlx.cli.serve, akidb_mlx.server.serve; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
