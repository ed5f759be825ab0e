"""What a run shows of itself: rows count when they are computed, and the share of the input with them."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading

import pytest

from akidb_mlx import Embedder
from akidb_mlx.corpus.progress import Progress
from akidb_mlx.corpus.sources import Source
from akidb_mlx.pipeline import text_pipeline
from akidb_mlx.pipeline.watching import watched_by
from support.checkpoints import PROMPTS
from support.waiting import PATIENCE_S


class Recorded:
    """In place of tqdm's bar."""

    def __init__(self, total, **_):
        self.total, self.updates = total, []
        Recorded.last = self

    def update(self, texts):
        self.updates.append(texts)

    def close(self):
        pass


def test_rows_count_before_they_come_out_in_order(tmp_path):
    sources = [Source("a", tmp_path / "a.jsonl", 1000, 0), Source("b", tmp_path / "b.jsonl", 500, 0)]
    with Progress(sources, shown=False) as progress:
        progress.start(0, 100, rows=3)
        assert (progress.rows, progress.position) == (0, 100)
        for row in range(1, 11):
            progress.read(0, 100 + 10 * row)
        progress.computed(5)
        assert (progress.rows, progress.position) == (5, 150)
        progress.handed_over(4)
        progress.finished(0, 140, 4)
        assert (progress.rows, progress.position) == (5, 150)
        progress.computed(-1)  # they begin anew
        assert (progress.rows, progress.position) == (4, 140)
        progress.computed(6)
        assert progress.rows == 10
        progress.end("writing")
        assert progress.position == 1500


def test_what_tells_nothing_while_it_computes(tmp_path):
    with Progress([Source("a", tmp_path / "a.jsonl", 100, 0)], shown=False) as progress:
        progress.start(0, 0)
        for row in range(1, 5):
            progress.read(0, 25 * row)
        progress.handed_over(2)
        progress.finished(0, 50, 2)
        assert (progress.rows, progress.position) == (2, 50)


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_line_ends_within_the_terminal(tmp_path, monkeypatch, columns):
    """The last one too, which is the longest: time passed and left are whole."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setenv("COLUMNS", str(columns))
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with Progress([Source("a", tmp_path / "a.jsonl", 3000, 0)], shown=True) as progress:
            progress.start(0, 0)
            for row in range(3000):
                progress.read(0, row + 1)
            progress.handed_over(3000)
            progress.finished(0, 3000, 3000)
            progress.end("writing articles.parquet")
        terminal.flush()
        told = os.read(ours, 100_000).decode()
    os.close(ours)
    last = told.rstrip().split("\r")[-1]
    assert re.fullmatch(r"100%.* \[\d\d:\d\d<\d\d:\d\d\]", last) and len(last) <= columns
    assert ("3,000 rows; writing articles.parquet [" in last) == (columns > 40) and "3,000 rows; writing" in last


def test_a_bar_counts_rows_as_batches_end(tiny, monkeypatch):
    monkeypatch.setattr("tqdm.tqdm", Recorded)
    texts = [f"text {i} " * (i % 7 + 1) for i in range(300)] + ["equal"] * 20
    assert tiny.encode(texts, show_progress=True).shape[0] == 320
    bar = Recorded.last
    assert sum(bar.updates) == bar.total == 320 and len(bar.updates) > 3


def test_texts_that_are_cancelled_are_not_counted(monkeypatch):
    monkeypatch.setattr("tqdm.tqdm", Recorded)
    computes, go_on = threading.Event(), threading.Event()

    class Interrupting:
        def computed(self, texts):
            computes.set()
            assert go_on.wait(PATIENCE_S)  # the device waits until the caller has given up

        def cut(self, places):
            pass

    with Embedder.load(PROMPTS, max_batch_tokens=50) as embedder:

        async def give_up(future, /):
            if future.done():  # tokens
                return future.result()
            assert computes.wait(PATIENCE_S)
            raise KeyboardInterrupt

        monkeypatch.setattr(text_pipeline, "blocking", give_up)
        try:
            with watched_by(Interrupting()):
                embedder.encode([f"text number {i}" for i in range(200)], show_progress=True)
            raise AssertionError("it was not interrupted")
        except KeyboardInterrupt:
            pass
        finally:
            go_on.set()
    assert sum(Recorded.last.updates) < 100
