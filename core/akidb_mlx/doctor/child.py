"""A process of its own for `doctor --device`: `python -m akidb_mlx.doctor.child busy|fork FOLDER gpu|cpu|any`."""

import contextlib
import json
import os
import sys
import threading
import time

import numpy as np

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import BackendError, ClosedError

_TEXTS = [f"w{number} w2 w3" for number in range(1, 200)]
_THREADS = 4
_CHILD_S = 20.0
_ANSWERS = {0: "right", 3: "wrong", 4: "refused"}


def main() -> None:
    """Do one task and say what came of it on standard output."""
    task, folder, device = sys.argv[1:]
    config = EmbedderConfig.exact(model=folder, device=None if device == "any" else device)
    {"busy": _busy, "fork": _fork}[task](Embedder.load(config))


def _busy(embedder: Embedder) -> None:
    """End while threads embed."""
    began = threading.Barrier(_THREADS + 1)

    def work() -> None:
        embedder.encode(_TEXTS)
        began.wait()
        with contextlib.suppress(ClosedError):  # the process is ending
            while True:
                embedder.encode(_TEXTS)

    for _ in range(_THREADS):
        threading.Thread(target=work, daemon=True).start()
    began.wait()
    sys.stdout.write("embeds\n")


def _fork(embedder: Embedder) -> None:
    """Say how a forked child fares: right, wrong, refused, or how it ended."""
    expected = embedder.encode(_TEXTS)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if np.abs(embedder.encode(_TEXTS) - expected).max() <= 1e-6 else 3
        except BackendError:
            code = 4
        finally:
            os._exit(code)
    sys.stdout.write(json.dumps(_wait(child)))


def _wait(child: int) -> str:
    until = time.monotonic() + _CHILD_S
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return _ANSWERS.get(code, f"ended with code {code}")
        time.sleep(0.005)
    os.kill(child, 9)
    return "hanging"


if __name__ == "__main__":
    main()
