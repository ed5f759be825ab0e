"""Reading, committing and writing go on beside the device, in order, and their errors come out."""

import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx.corpus import embed_corpus, embedding, writers
from akidb_mlx.corpus.overlap import Committing, read_ahead
from akidb_mlx.corpus.parts import Parts
from support.waiting import PATIENCE_S, until


def sizes(_):
    return 10


def test_rows_that_are_read_ahead_keep_their_order_and_end():
    assert list(read_ahead(iter(range(5000)), sizes, 8000)) == list(range(5000))
    assert list(read_ahead(iter([]), sizes, 8000)) == []


def test_what_is_read_before_an_error_comes_before_it():
    def rows():
        yield from range(700)
        raise OSError("torn")

    seen = []
    with pytest.raises(OSError, match="torn"):
        for row in read_ahead(rows(), sizes, 10**6):
            seen.append(row)
    assert seen == list(range(700))


def test_no_more_is_read_ahead_than_is_allowed():
    read = []

    def rows():
        for number in range(10_000):
            read.append(number)
            yield number

    taking = read_ahead(rows(), sizes, 800)
    assert next(taking) == 0
    time.sleep(0.1)
    assert len(read) <= 2 * 80 + 10
    taking.close()
    until(lambda: not any(thread.name.startswith("akidb-mlx-read") for thread in threading.enumerate()))
    assert len(read) <= 2 * 80 + 10


def test_the_next_rows_are_computed_while_a_part_is_committed(tiny, tmp_path, monkeypatch):
    """A commit that waits for the device to have gone on would wait for ever, were they to take turns."""
    source, asked = tmp_path / "in.parquet", []
    pq.write_table(pa.table({"id": range(400), "text": [f"row {i}" for i in range(400)]}), source)
    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)
    real_add, real_stream = Parts.add, tiny.encode_stream
    going_on = threading.Event()

    def add(parts, *args):
        assert going_on.wait(PATIENCE_S)
        real_add(parts, *args)

    def stream(texts, *args, **kwargs):
        for rows in real_stream(texts, *args, **kwargs):
            asked.append(len(rows))
            if len(asked) == 2:
                going_on.set()
            yield rows

    monkeypatch.setattr(Parts, "add", add)
    monkeypatch.setattr(tiny, "encode_stream", stream)
    assert embed_corpus([source], tmp_path / "out.parquet", tiny).rows == 400


def test_a_commit_that_fails_ends_the_run_at_the_next_one():
    done = []

    def work(piece):
        if piece == 2:
            raise OSError("full")
        done.append(piece)

    with pytest.raises(OSError, match="full"), Committing(work) as committing:
        for piece in range(10):
            committing.add(piece)
    assert done == [0, 1]
    with pytest.raises(OSError, match="full"), Committing(work) as committing:
        committing.add(2)  # raised at the end where nothing asks before
    with pytest.raises(ValueError, match="first"), Committing(work) as committing:
        committing.add(2)
        raise ValueError("first")


def test_the_output_is_written_before_the_last_part(tiny, tmp_path, monkeypatch):
    source, written = tmp_path / "in.parquet", []
    pq.write_table(pa.table({"id": range(400), "text": [f"row {i}" for i in range(400)]}), source)
    monkeypatch.setattr(embedding, "_PART_BYTES", 100_000)
    monkeypatch.setattr(writers, "_GROUP", 20)
    real, unfinished = Parts.add, tmp_path / "out.jsonl.tmp"

    def add(parts, *args):
        if len(parts.facts) == 4:
            until(lambda: unfinished.stat().st_size)
        written.append(unfinished.exists() and unfinished.stat().st_size)
        real(parts, *args)

    monkeypatch.setattr(Parts, "add", add)
    embed_corpus([source], tmp_path / "out.jsonl", tiny)
    assert written[4] > 0
    assert not unfinished.exists()
