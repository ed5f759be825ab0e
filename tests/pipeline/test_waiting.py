"""The threads that calls share."""

import asyncio
import os
import threading

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.pipeline import waiting
from akidb_mlx.pipeline.waiting import Threads
from support.checkpoints import PROMPTS
from support.waiting import PATIENCE_S

LONG = "tea and " * 800
"""More than an event loop may tokenise itself."""


def _tokenizing():
    return {thread for thread in threading.enumerate() if thread.name.startswith("akidb-mlx-tokenize")}


def test_calls_take_the_threads_that_there_are():
    met = set()
    with Embedder.load(PROMPTS, max_seq_length=16) as embedder:

        async def ask():
            await embedder.aencode([LONG])
            met.update(_tokenizing())

        for _ in range(40):
            asyncio.run(ask())
    assert 1 <= len(met) <= waiting._threads()._max_workers
    assert all(thread.is_alive() for thread in met)


def test_what_is_left_of_a_call_is_not_done():
    busy, go, done = threading.Barrier(waiting._threads()._max_workers + 1), threading.Event(), []

    def hold():
        busy.wait(PATIENCE_S)
        go.wait(PATIENCE_S)

    with Threads() as others:
        held = [others.do(True, hold) for _ in range(busy.parties - 1)]
        busy.wait(PATIENCE_S)
        with Threads() as threads:
            left = threads.do(True, done.append, 1)
        go.set()
        for future in held:
            future.result(PATIENCE_S)
    assert left.cancelled()
    assert Threads().do(True, lambda: 2).result(PATIENCE_S) == 2
    assert not done


@pytest.fixture
def others_under_way():
    """As much of other calls as there are threads for, and more: none of it ends before the test."""
    most = waiting._threads()._max_workers
    busy, go = threading.Barrier(most + 1), threading.Event()

    def hold():
        busy.wait(PATIENCE_S)
        go.wait(PATIENCE_S)

    with Threads() as others:
        held = [others.do(True, hold) for _ in range(most)]
        busy.wait(PATIENCE_S)
        held.append(others.do(True, go.wait, PATIENCE_S))
        yield held
        go.set()
        for future in held:
            future.result(PATIENCE_S)


def test_a_query_waits_for_no_documents(others_under_way):
    """Their pieces may wait for a tokenizer or a process."""
    with Embedder.load(PROMPTS, max_seq_length=16) as embedder:
        alone = embedder.encode_query([LONG])
        given = asyncio.run(asyncio.wait_for(embedder.aencode_query([LONG]), PATIENCE_S))
    assert np.array_equal(given, alone)
    assert not any(future.done() for future in others_under_way)


def test_where_no_thread_can_be_started_work_is_done_once(monkeypatch):
    """A process may be at its limit of threads; the pool then keeps what it could not start one for."""
    monkeypatch.setattr(waiting, "_pools", {})
    go = threading.Event()
    left = iter(range(5))
    threads = Threads()
    held = threads.do(True, go.wait, PATIENCE_S)

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        assert [threads.do(True, next, left).result(PATIENCE_S) for _ in range(2)] == [0, 1]
        assert isinstance(threads.do(True, int, "tea").exception(PATIENCE_S), ValueError)
    go.set()
    held.result(PATIENCE_S)
    assert threads.do(True, next, left).result(PATIENCE_S) == 2  # behind what the pool had kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_threads_of_its_own():
    assert Threads().do(True, os.getpid).result(PATIENCE_S) == os.getpid()
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = Threads().do(True, os.getpid).result(PATIENCE_S) == os.getpid()
        finally:
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
