"""A run that is killed, anywhere, and its successor leave what an undisturbed run leaves."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus, embedding
from akidb_mlx.corpus.parts import PartFacts, Parts
from akidb_mlx.errors import ConfigError
from support.checkpoints import REFERENCE
from support.comparison import assert_close
from support.waiting import PATIENCE_S

ROWS = 400

# A child that dies at its N-th step that changes the disk, without a chance to tidy up; the parent counts on.
CRASHES = textwrap.dedent(
    """
    import hashlib, os, shutil, sys
    from pathlib import Path
    import numpy as np
    from akidb_mlx import EmbedderConfig, corpus
    from akidb_mlx.corpus import embedding

    embedding._PART_BYTES = 130_000
    os.fsync = lambda handle: None  # a kill does not lose what the kernel has
    folder, suffix = Path(sys.argv[1]), sys.argv[2]

    class Stub:  # no MLX, so that a fork is harmless
        config, dimension, fingerprint = EmbedderConfig(), 8, "f"
        def info(self):
            names = ("model_name revision pooling normalize prompts query_prompt document_prompt max_seq_length "
                     "exact_reference dimension similarity quantization task").split()
            return dict.fromkeys(names) | {"dimension": 8}
        def stats(self):
            return {"tokens": 0, "truncated_texts": 0}
        def encode_stream(self, texts, chunk_size, *, side, on_error):
            for text in texts:
                digest = hashlib.sha256(text.encode()).digest()
                yield np.frombuffer(digest, np.uint8)[None, :8].astype(np.float32)

    def run(out):
        return corpus.embed_corpus([folder / "in.jsonl"], out, Stub(), output_dtype="int8")

    def die_at(step):
        count = [0]
        def dying(real):
            def call(*args, **kwargs):
                count[0] += 1
                if count[0] == step:
                    os._exit(9)
                return real(*args, **kwargs)
            return call
        for name in ("fsync", "replace", "unlink", "mkdir", "rmdir", "open"):
            setattr(os, name, dying(getattr(os, name)))
        Path.replace, Path.unlink, Path.open = dying(Path.replace), dying(Path.unlink), dying(Path.open)

    def contents(out):
        return {p.name.removeprefix(out.name): p.read_bytes() for p in out.parent.iterdir()}

    (folder / "whole").mkdir()
    run(folder / "whole" / f"out{suffix}")
    whole = contents(folder / "whole" / f"out{suffix}")
    step = 0
    while True:
        step += 1
        place = folder / f"crash{step}"
        place.mkdir()
        out = place / f"out{suffix}"
        child = os.fork()
        if child == 0:
            die_at(step)
            run(out)
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert died in (0, 9), died
        run(out)
        assert contents(out) == whole, (step, sorted(contents(out)), sorted(whole))
        shutil.rmtree(place)
        if died == 0:
            break
    print(step)
    """
)


def corpus(path, count=ROWS):
    rows = [{"id": i, "text": f"row {i} of the corpus" if i % 20 else None, "n": i / 2} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npy"])
def test_a_crash_at_each_step_that_touches_the_disk_changes_nothing(tmp_path, suffix):
    """Byte for byte: the stub's vectors do not depend on their batch."""
    corpus(tmp_path / "in.jsonl", 120)
    command = [sys.executable, "-c", CRASHES, tmp_path, suffix]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def same(a, b):
    a, b = pq.read_table(a), pq.read_table(b)
    assert a.drop_columns("embedding").equals(b.drop_columns("embedding"))
    rows = [np.array(table["embedding"].to_pylist(), np.float32) for table in (a, b)]
    assert_close(*rows, tolerance=3e-6)


# The command with small parts; it says so after each, and goes on when it is told.
STEP_BY_STEP = """
import sys
from akidb_mlx.corpus import embedding, parts
embedding._PART_BYTES = 60_000
add = parts.Parts.add
def step(self, *args):
    add(self, *args)
    print("part", flush=True)
    sys.stdin.readline()
parts.Parts.add = step
from akidb_mlx.cli import main
sys.exit(main(sys.argv[1:]))
"""


def killed(source, out, parts, seconds=0.0):
    """Start the command and kill it some seconds after one of its parts; whether that hit."""
    model = REFERENCE / "bert-prompts"
    command = [sys.executable, "-c", STEP_BY_STEP, "embed", source, "--to", out, "--model", model, "--no-progress"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        for part in range(1, parts + 1):
            if run.stdout.readline() == b"part\n" and part < parts:
                run.stdin.write(b"\n")
                run.stdin.flush()
        if seconds:
            run.stdin.close()  # from here on by itself
            time.sleep(seconds)
        run.kill()
    assert run.returncode in (0, -signal.SIGKILL)
    return run.returncode != 0


def test_kill_9_and_again_until_it_is_done(tiny, tmp_path):
    source, out = corpus(tmp_path / "in.jsonl"), tmp_path / "out.parquet"
    embed_corpus([source], tmp_path / "whole.parquet", tiny)
    assert killed(source, out, 2)
    assert not out.exists()
    summary = embed_corpus([source], out, tiny)
    assert ROWS > summary.resumed > 0
    same(out, tmp_path / "whole.parquet")
    rejects = [Path(f"{tmp_path / name}.parquet.rejects.jsonl").read_bytes() for name in ("out", "whole")]
    assert rejects[0] == rejects[1]
    assert not Path(f"{out}.parts").exists()


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments(tiny, tmp_path):
    source, out = corpus(tmp_path / "in.jsonl"), tmp_path / "out.parquet"
    embed_corpus([source], tmp_path / "whole.parquet", tiny)
    moments, kills, finished = random.Random(8), 0, 0
    while kills < 20:
        if out.exists():
            finished += 1
            same(out, tmp_path / "whole.parquet")
            out.unlink()
        kills += killed(source, out, moments.randrange(8), moments.uniform(0, 0.15))
    embed_corpus([source], out, tiny)
    same(out, tmp_path / "whole.parquet")
    assert finished


@pytest.mark.slow
def test_kill_9_between_shards_whose_types_differ(tiny, tmp_path):
    """Ids, vectors, values and types are those of an undisturbed run."""
    columns = [
        pa.array(range(2000), pa.int32()),
        pa.nulls(2000),
        pa.array([i / 4 for i in range(2000)], pa.float32()),
        pa.array([2**40 + i for i in range(2000)]),
    ]
    (tmp_path / "in").mkdir()
    for shard, column in enumerate(columns):
        ids = [f"{shard}-{i}" for i in range(2000)]
        meta = [{"a": i} if shard % 2 else {"a": i, "b": [i]} for i in range(2000)]
        rows = {"id": ids, "text": [f"row {i} of shard {shard}" for i in range(2000)], "x": column, "meta": meta}
        pq.write_table(pa.table(rows), tmp_path / "in" / f"{shard}.parquet")
    out = tmp_path / "out.parquet"
    embed_corpus([tmp_path / "in"], tmp_path / "whole.parquet", tiny)
    kills = 0
    while not out.exists():
        kills += killed(tmp_path / "in", out, 40, 0.05)
    assert kills > 4
    same(out, tmp_path / "whole.parquet")
    table = pq.read_table(out)
    assert table["x"].type == pa.float64()
    assert table["meta"].type == pa.struct({"a": pa.int64(), "b": pa.list_(pa.int64())})
    assert table["x"].to_pylist()[-1] == 2**40 + 1999


def test_parts_of_another_recipe_are_not_mixed_in(tiny, tmp_path, monkeypatch):
    source, out = corpus(tmp_path / "in.jsonl"), tmp_path / "out.parquet"
    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)

    def interrupted(parts, *args):
        real(parts, *args)
        if len(parts.facts) == 3:
            raise KeyboardInterrupt

    real = Parts.add
    monkeypatch.setattr(Parts, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus([source], out, tiny)
    monkeypatch.setattr(Parts, "add", real)
    with Embedder.load(REFERENCE / "bert-prompts", document_prompt="other: ") as other:
        with pytest.raises(ConfigError, match=r"out\.parquet\.parts was begun otherwise: document_prompt was null"):
            embed_corpus([source], out, other)
        assert embed_corpus([source], out, other, overwrite=True).resumed == 0
        embed_corpus([source], tmp_path / "whole.parquet", other)
    same(out, tmp_path / "whole.parquet")


def test_two_runs_do_not_write_one_output(tiny, tmp_path):
    source, out = corpus(tmp_path / "in.jsonl"), tmp_path / "out.parquet"
    first = Parts(out)
    with pytest.raises(ConfigError, match="another run is writing"):
        embed_corpus([source], out, tiny)
    first.close()
    assert embed_corpus([source], out, tiny).rows == ROWS - ROWS // 20


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_other_formats_go_on_where_they_were(tiny, tmp_path, monkeypatch, suffix):
    import pyarrow.csv

    table = pa.table({"id": list(range(ROWS)), "text": [f"row {i}" for i in range(ROWS)]})
    source, out = tmp_path / f"in{suffix}", tmp_path / "out.parquet"
    if suffix == ".csv":
        pyarrow.csv.write_csv(table, source)
    else:
        pq.write_table(table, source, row_group_size=33)
    second = tmp_path / "second.jsonl"
    second.write_text('{"id": 1000, "text": "the last"}\n')
    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)
    real = Parts.add
    for limit in (1, 3, 5, 6, 20):

        def interrupted(parts, *args, limit=limit):
            real(parts, *args)
            if len(parts.facts) == limit:
                raise KeyboardInterrupt

        monkeypatch.setattr(Parts, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed_corpus([source, second], out, tiny)
    monkeypatch.setattr(Parts, "add", real)
    assert embed_corpus([source, second], out, tiny).resumed > 300
    expected = [str(i) for i in range(ROWS)] if suffix == ".csv" else list(range(ROWS))
    assert list(map(str, pq.read_table(out)["id"].to_pylist())) == [*map(str, expected), "1000"]


def test_an_interruption_leaves_no_open_file(tiny, tmp_path):
    """The lock is free again at once."""
    source, out = corpus(tmp_path / "in.jsonl"), tmp_path / "out.parquet"
    open_files = Path("/proc/self/fd")
    if not open_files.exists():
        pytest.skip("only Linux lists a process's open files")
    before = len(list(open_files.iterdir()))
    with pytest.raises(ConfigError):
        embed_corpus([source], out, tiny, output_dtype="nonsense")
    embed_corpus([source], out, tiny)
    assert len(list(open_files.iterdir())) <= before


def test_parts_that_are_half_removed_are_whole(tmp_path, monkeypatch):
    """Killed while they go: whoever deletes the output then and runs again gets it."""
    out = tmp_path / "out.parquet"
    for step in range(1, 9):
        parts = Parts(out)
        facts = {"given": 0, "largest": 0.0, "source": 0, "position": 0}
        for number in range(3):
            parts.add(
                pa.table({"id": [str(number)]}),
                [{"row": number}],
                PartFacts(rows=1, rejected=1, number=number, **facts),
            )
        steps, unlink = iter(range(1, 100)), Path.unlink

        def dying(file, *args, steps=steps, unlink=unlink, step=step, **kwargs):
            if next(steps) == step:
                raise KeyboardInterrupt
            unlink(file, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dying)
            with contextlib.suppress(KeyboardInterrupt):
                parts.remove()
        parts.close()
        left = Parts(out) if Parts.exist(out) else None
        if left is not None:
            assert len(list(left.rejects())) == len(left.facts)
            left.remove()
