"""`akidb-mlx embed`: one clear line and the right exit code, whatever goes wrong."""

import json
import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from akidb_mlx.cli import main
from akidb_mlx.corpus import embedding
from support.checkpoints import PROMPTS

TINY = str(PROMPTS)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """200 rows in the working folder."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"key": f"k{i}", "body": f"row {i} of many", "n": i}) for i in range(200)]
    Path("in.jsonl").write_text("\n".join(lines))
    return Path("in.jsonl")


def embed(*options, model=TINY):
    return main(["embed", "in.jsonl", "--text-column", "body", "--model", model, *options])


def error(capsys):
    """The one line on standard error."""
    told = capsys.readouterr().err.strip()
    assert told.startswith("akidb-mlx: ")
    assert "\n" not in told
    return told


def test_it_embeds_says_what_it_did_and_does_it_once(rows, capsys):
    options = ("--to", "out.parquet", "--id-column", "key", "--keep", "n", "--no-progress")
    assert embed(*options) == 0
    out = capsys.readouterr()
    assert out.out.startswith("out.parquet: 200 rows, ")
    assert "tokens/s" in out.out
    assert out.err == ""
    table = pq.read_table("out.parquet")
    assert table.column_names == ["id", "embedding", "n"]
    assert table["id"].to_pylist() == [f"k{i}" for i in range(200)]
    assert embed(*options) == 0
    assert capsys.readouterr().out == "out.parquet is finished: 200 rows; nothing to do\n"


def test_progress_shows_rate_and_time_left(rows, capsys):
    assert embed("--to", "out.npy") == 0
    told = capsys.readouterr().err
    assert "\r" not in told  # a file can be searched by lines
    assert told.splitlines()[-1].startswith("100% 200 rows; writing out.npy, 0:")
    assert np.load("out.npy").shape == (200, 16)


def test_progress_while_it_runs(rows, capsys, monkeypatch):
    monkeypatch.setattr(embedding, "_FIRST_CHUNK", 20)
    monkeypatch.setattr("akidb_mlx.corpus.progress._LOG_S", 0)
    assert embed("--to", "out.parquet") == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(" rows/s, 0:" in line and not line.startswith(("  0%", "100%")) for line in lines)


@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_has_a_bar_and_warnings_stand_above_it(rows, capsys, monkeypatch, columns):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("akidb_mlx.corpus.progress._TERMINAL_S", 0.001)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(embedding, "_FIRST_CHUNK", 20)
    handler = logging.StreamHandler(sys.stderr)  # as the command line has it, where no test runner is before it
    logging.getLogger().addHandler(handler)
    try:
        assert embed("--to", "out.parquet", "--max-seq-length", "5") == 0
    finally:
        logging.getLogger().removeHandler(handler)
    told = capsys.readouterr().err
    assert len(re.findall(r"(?:^|[\r\n])20 of 20 texts have more than 5 tokens .*\n", told)) == 1
    drawn = [line for line in told.split("\r") if "rows/s [" in line or "/s [" in line]
    assert drawn and all(("|" in line) == (columns == 100) for line in drawn)


def test_cut_texts_are_counted_over_all_runs(rows, capsys, monkeypatch):
    from akidb_mlx.corpus.parts import Parts

    real = Parts.add

    def interrupted(self, *args):
        real(self, *args)
        raise KeyboardInterrupt

    options = ("--to", "out.parquet", "--no-progress", "--max-seq-length", "24")
    rows.write_text("\n".join(json.dumps({"body": "a b c d e f " * 9 if i % 2 else "a"}) for i in range(200)))
    monkeypatch.setattr(embedding, "_FIRST_CHUNK", 20)
    monkeypatch.setattr(embedding, "_FIRST_PART_S", 0)
    monkeypatch.setattr(Parts, "add", interrupted)
    assert embed(*options) == 130
    monkeypatch.setattr(Parts, "add", real)
    assert embed(*options) == 0
    assert embed(*options) == 0
    out = capsys.readouterr().out.splitlines()
    assert "from an earlier run, 100 cut at max_seq_length, " in out[0]
    assert out[1] == "out.parquet is finished: 200 rows, 100 cut at max_seq_length; nothing to do"


def test_every_config_field_is_an_option(rows):
    assert embed("--to", "out.npy", "--truncate-dim", "8", "--output-dtype", "binary", "--no-progress") == 0
    assert np.load("out.npy").shape == (200, 1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--to", "out.txt"], "its name must end in .parquet, .jsonl, .npy"),
        (["--to", "no/out.npy"], "the folder no of the output does not exist"),
        (["--to", "out.npy", "--id-column", "isbn"], "in.jsonl has no column 'isbn' (it has key, body, n)"),
        (["--to", "out.npy", "--output-dtype", "int4"], "float32, float16, int8, uint8, binary"),
        (["--to", "out.npy", "--truncate-dim", "900"], "truncate_dim is 900"),
        (["--to", "out.npy", "--calibration", "in.jsonl"], "in.jsonl carries no recipe"),
        (["--to", "in.jsonl"], "both input and output"),
        (["--to", "out.npy", "--text-column", "title"], "in.jsonl has no column 'title'"),
    ],
)
def test_a_users_mistake_is_exit_2_and_one_line(rows, capsys, options, told):
    assert embed("--no-progress", *options) == 2
    assert told in error(capsys)
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl"]


def test_an_input_that_is_not_there_is_exit_2(rows, capsys):
    assert main(["embed", "in.jsonl", "gone.csv", "--to", "out.npy", "--text-column", "body", "--model", TINY]) == 2
    assert "cannot read gone.csv: No such file or directory" in error(capsys)


def test_an_unknown_model_is_exit_2(rows, capsys):
    assert embed("--to", "out.npy", model="package:no_such_package") == 2
    assert "no_such_package" in error(capsys)


def test_a_file_that_may_not_be_read_is_exit_2(rows, capsys, monkeypatch):
    real = Path.open

    def refused(self, *args, **kwargs):
        if self.name == "in.jsonl":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refused)
    assert embed("--to", "out.npy") == 2
    assert "cannot read in.jsonl: " in error(capsys)


def test_another_fingerprint_in_the_output_is_exit_2(rows, capsys):
    assert embed("--to", "out.parquet", "--no-progress") == 0
    capsys.readouterr()
    assert embed("--to", "out.parquet", "--no-progress", "--document-prompt", "") == 2
    assert 'out.parquet was made otherwise: document_prompt was null and is now ""' in error(capsys)
    assert embed("--to", "out.parquet", "--no-progress", "--document-prompt", "", "--overwrite") == 0


def test_an_input_that_was_moved_or_touched_is_the_same(rows, capsys, monkeypatch, tmp_path):
    assert embed("--to", "out.parquet", "--no-progress", "--id-column", "key") == 0
    os.utime(rows, (1, 1))
    assert embed("--to", "out.parquet", "--no-progress", "--id-column", "key") == 0
    assert "is finished" in capsys.readouterr().out.splitlines()[-1]
    moved = tmp_path / "elsewhere.jsonl"
    rows.rename(moved)
    command = ["--text-column", "body", "--model", TINY, "--no-progress", "--to", "out.parquet"]
    assert main(["embed", str(moved), *command, "--id-column", "key"]) == 0
    text = moved.read_text()
    moved.write_text(text.replace("row 7 ", "row 8 "))
    assert main(["embed", str(moved), *command, "--id-column", "key"]) == 2
    assert "an input file was changed or renamed since; write to another file, or overwrite it (--overwrite)" in error(
        capsys
    )


def test_ids_that_say_a_files_name_make_another_output_of_a_renamed_one(rows, capsys, tmp_path):
    command = ["--text-column", "body", "--model", TINY, "--no-progress", "--to", "out.parquet"]
    assert main(["embed", "in.jsonl", *command]) == 0
    assert main(["embed", str(rows.absolute()), *command]) == 0  # the same place
    rows.rename("other.jsonl")
    assert main(["embed", "other.jsonl", *command]) == 2
    assert "was changed or renamed since" in error(capsys)


def test_parts_go_on_after_their_input_was_moved(rows, capsys, monkeypatch):
    from akidb_mlx.corpus.parts import Parts

    real = Parts.add

    def interrupted(self, *args):
        real(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedding, "_FIRST_CHUNK", 20)
    monkeypatch.setattr(embedding, "_FIRST_PART_S", 0)
    monkeypatch.setattr(Parts, "add", interrupted)
    command = ["--text-column", "body", "--model", TINY, "--no-progress", "--to", "out.parquet", "--id-column", "key"]
    assert main(["embed", "in.jsonl", *command]) == 130
    monkeypatch.setattr(Parts, "add", real)
    rows.rename("moved.jsonl")
    assert main(["embed", "moved.jsonl", *command]) == 0
    assert " from an earlier run" in capsys.readouterr().out


def test_a_run_that_rejects_everything_fails(rows, capsys):
    rows.write_text("[]\n")
    assert embed("--to", "out.parquet", "--no-progress") == 1
    assert "0 rows, 1 rejected" in capsys.readouterr().out


def test_a_full_disk_is_exit_1_and_the_next_run_goes_on(rows):
    """The kernel lets no file grow beyond 60 kB: the parts fit, the whole output does not."""
    program = (
        "import sys; from akidb_mlx.corpus import embedding; embedding._PART_BYTES = 60_000; "
        "from akidb_mlx.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    rows.write_text("\n".join(json.dumps({"text": f"row {i}", "pad": f"{i * 7919:0500x}"}) for i in range(200)))
    command = [sys.executable, "-c", program, "embed", rows, "--to", "out.jsonl", "--model", TINY, "--no-progress"]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=unmeasured,  # what coverage finds out would not fit either
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )
    assert full.returncode == 1
    assert full.stderr.startswith("akidb-mlx: File too large (out.jsonl); 200 rows are safe in out.jsonl.parts: ")
    assert full.stderr.count("\n") == 1
    names = {path.name for path in Path().iterdir()}
    assert names == {"in.jsonl", "out.jsonl.parts"}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert "200 from an earlier run" in again.stdout


def test_a_disk_that_fills_up_on_the_way_is_exit_1(rows, capsys, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert embed("--to", "out.parquet", "--no-progress") == 1
    assert "No space left on device" in error(capsys)
    monkeypatch.undo()


def test_a_torn_input_is_exit_1(rows, capsys, monkeypatch):
    Path("torn.csv").write_text("body\n" + "ok\n" * 50 + '"' + "x" * (2**24 + 1))
    args = ["embed", "torn.csv", "--text-column", "body", "--to", "out.npy", "--model", TINY, "--no-progress"]
    assert main(args) == 1
    assert "torn.csv cannot be read any further: field larger than field limit" in error(capsys)


def test_without_pyarrow_it_says_what_to_install(rows, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("akidb_mlx.corpus")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert embed("--to", "out.npy") == 2
    assert 'pip install "akidb-mlx[corpus]"' in error(capsys)


def test_ctrl_c_is_130_and_goes_on_later(rows, capsys, monkeypatch):
    from akidb_mlx.corpus.parts import Parts

    real = Parts.add

    def interrupted(self, *args):
        real(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)
    monkeypatch.setattr(Parts, "add", interrupted)
    assert embed("--to", "out.parquet", "--no-progress") == 130
    told = error(capsys)
    assert told.startswith("akidb-mlx: interrupted; ")
    assert told.endswith(" rows are safe in out.parquet.parts: run the same again to go on")
    monkeypatch.setattr(Parts, "add", real)
    assert embed("--to", "out.parquet", "--no-progress") == 0
    assert "from an earlier run" in capsys.readouterr().out


def test_with_ray_it_says_what_to_install_where_there_is_none(rows, capsys):
    try:
        import ray  # noqa: F401
    except ImportError:
        assert embed("--to", "out.npy", "--engine", "ray") == 2
        assert 'pip install "akidb-mlx[ray]"' in error(capsys)
    else:
        pytest.skip("Ray is installed")
