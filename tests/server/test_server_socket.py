"""`akidb-mlx serve --uds`: a Unix socket for its owner, beside a port where one is given."""

import os
import signal
import socket
import stat
import subprocess
import sys

import numpy as np
import pytest

from akidb_mlx import Embedder, RemoteEmbedder
from akidb_mlx.server.serve import listen_uds
from akidb_mlx.server.settings import ServerSettings
from support.checkpoints import PROMPTS
from support.serving import serve_process
from support.waiting import PATIENCE_S, until


@pytest.fixture
def path(tmp_path_factory):
    """Short: a socket's path has 104 bytes on a Mac."""
    folder = tmp_path_factory.mktemp("s")
    yield folder / "s"


def urls(server):
    return [one["url"] for one in server.log if one["message"] == "listening"]


def test_a_socket_and_a_port_serve_one_model(path):
    with serve_process("--model", f"m={PROMPTS}", "--uds", path) as server:  # with --port
        until(lambda: len(urls(server)) == 2)
        assert urls(server) == [server.url, f"unix://{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Embedder.load(PROMPTS) as here:
            for url in urls(server):
                with RemoteEmbedder.load("m", base_url=url) as there:
                    assert there.encode_query(["tea"]).tobytes() == here.encode_query(["tea"]).tobytes()
                    assert len(list(there.encode_stream(["tea"] * 700))) == 1
        assert server.stop(signal.SIGTERM) == 0
        assert not path.exists()


def test_a_socket_alone_opens_no_port(path):
    command = [sys.executable, "-m", "akidb_mlx", "serve", "--model", f"m={PROMPTS}", "--uds", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            log = []
            for line in process.stderr:
                log.append(line)
                if '"model loaded"' in line:
                    break
            assert sum('"listening"' in line for line in log) == 1
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode in (1, 2)
            assert "another server listens there" in done.stderr and "Traceback" not in done.stderr
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def test_what_a_server_left_behind_is_taken_away_and_other_files_are_not(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen_uds(path):
        assert stat.S_ISSOCK(path.stat().st_mode)
        with pytest.raises(OSError, match="another server listens there"), listen_uds(path):
            pass
        os.unlink(path)  # noqa: PTH108
        path.write_text("another's")
    assert path.read_text() == "another's"
    with pytest.raises(OSError), listen_uds(path):
        pass
    assert path.read_text() == "another's"


@pytest.mark.parametrize(
    ("said", "tcp"),
    [({}, True), ({"uds": "s"}, False), ({"uds": "s", "port": 1}, True), ({"uds": "s", "host": "::1"}, True)],
)
def test_host_and_port_count_where_they_are_given(said, tcp):
    assert ServerSettings(**said).listens_on_tcp is tcp


def test_rows_over_a_socket_are_not_cut(path):
    """A large answer, which comes in many pieces."""
    with serve_process("--model", f"m={PROMPTS}", "--uds", path) as server:
        until(lambda: len(urls(server)) == 2)
        with RemoteEmbedder.load("m", base_url=f"unix://{path}") as there:
            rows = there.encode([f"text {place % 50}" for place in range(5000)])
            assert rows.shape == (5000, 16) and np.isfinite(rows).all()
