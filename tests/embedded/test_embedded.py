"""A program that is not Python loads EmbeddingService on a thread of its own and calls it from eight, as AkiDB does."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from akidb_mlx import Embedder
from support.checkpoints import PROMPTS
from support.comparison import assert_close
from support.waiting import PATIENCE_S

CALLERS, CALLS = 8, 3


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The compiled program."""
    said = sysconfig.get_config_vars()
    compiler, header = shutil.which("cc"), Path(said["INCLUDEPY"]) / "Python.h"
    library = Path(said["LIBDIR"]) / said["LDLIBRARY"]
    if compiler is None or not header.exists() or not said.get("Py_ENABLE_SHARED") or not library.exists():
        pytest.skip("needs a C compiler, Python's headers and a shared libpython")
    built = tmp_path_factory.mktemp("embedded") / "host"
    command = [compiler, "-Wall", "-Werror", "-Wno-deprecated-declarations", Path(__file__).with_name("host.c")]
    command += ["-o", built, f"-I{header.parent}", f"-L{library.parent}", f"-lpython{said['LDVERSION']}"]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}", "-pthread"], check=True)
    return built


def run(program, model, end):
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [program, model, end], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize("end", ["finalize", "leave"])
def test_eight_threads_of_another_program_get_their_rows(program, end):
    done = run(program, str(PROMPTS), end)
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == CALLERS * CALLS
    assert sorted({texts[0] for texts, _ in answers}) == [f"harbour {caller}" for caller in range(CALLERS)]
    with Embedder.load(PROMPTS) as embedder:
        for texts, rows in answers:
            assert_close(rows, embedder.encode_document(texts))


@pytest.mark.parametrize("end", ["finalize", "leave"])
def test_an_unknown_model_is_an_exception_there(program, end):
    done = run(program, "./nowhere", end)
    assert done.returncode == 3 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("load: ") and "ModelNotFoundError: no model './nowhere': no such folder" in line
