"""The scripts in benchmarks/ find what they take from each other and from the packages."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAM = """
import importlib, pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
scripts = sorted(path.stem for path in folder.glob("*.py"))
for name in scripts:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # a peer's, or of an extra
        if error.name.split(".")[0] in (*scripts, "akidb_mlx", "langchain_akidb_mlx", "llama_index_akidb_mlx"):
            raise
print(len(scripts))
"""


def test_each_can_be_imported():
    command = [sys.executable, "-c", PROGRAM, str(BENCHMARKS)]
    given = subprocess.run(command, capture_output=True, text=True)
    assert given.returncode == 0, given.stderr
    assert int(given.stdout.split()[-1]) == len(list(BENCHMARKS.glob("*.py"))) > 20
