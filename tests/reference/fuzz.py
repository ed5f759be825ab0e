"""Edited copies of the reference checkpoints, put to sentence-transformers and to akidb-mlx: equal rows, or refused.

    python tests/reference/fuzz.py --reference PYTHON [--edits 5000] [--first 0] [--only NAME …] [--out FILE]

PYTHON is one with sentence-transformers. Each edit is drawn from its number, so that one that differs can be made
again (`--first NUMBER --edits 1 --keep FOLDER`). It ends with 1 where an edit was accepted and gave other rows. What
one side alone refuses is counted with its reason. Never part of the tests: six edits a second.
"""

import argparse
import collections
import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import fuzz_edits

HERE = Path(__file__).parent
TEXTS = [
    "Snow fell through the night.",
    "  The  ORCHESTRA tunes, café naïve\t東京 </s> [SEP] ",
    "tea: which trees grow in the garden near the harbour? " * 8,
    "a",
]
TOLERANCE = 1e-5
# A worker that takes longer is started anew.
PATIENCE = 120


class Side:
    """A worker; it is started anew where it died."""

    def __init__(self, python: str, side: str, cache: str) -> None:
        self._command = [python, str(HERE / "fuzz_worker.py"), side]
        self._environment = {**os.environ, "XDG_CACHE_HOME": cache}
        self._process: subprocess.Popen[str] | None = None

    def ask(self, folder: Path, texts: list[str]) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=self._environment,
            )  # fmt: skip
            self._line()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"folder": str(folder), "texts": texts}) + "\n")
            self._process.stdin.flush()
            return json.loads(self._line())
        except (OSError, ValueError) as error:
            self.close()
            return {"error": f"DIED: {error}"}

    def _line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                raise OSError("no answer")
        return self._process.stdout.readline()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def computed_as_it_stands(name: str, sides: list[Side]) -> bool:
    """Whether the reference reads the folder: some hold forms that it reads only by code of their own."""
    result, detail = compare(*(side.ask(HERE / name, TEXTS) for side in sides))
    if result != "equal":
        print(f"left out: {name}, {result}: {detail[:80]}", flush=True)
    return result == "equal"


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> tuple[str, str]:
    """What came of it, and how far off or why."""
    if "error" in ours and "error" in theirs:
        return "refused by both", _plain(ours["error"])
    if "error" in ours:
        return "refused here alone", _plain(ours["error"])
    if "error" in theirs:
        return "accepted here alone", _plain(theirs["error"])
    if not all(np.isfinite(np.array(rows)).all() for rows in theirs["rows"].values()):
        return "accepted here alone", "its numbers are not finite"
    worst, where = 0.0, ""
    for kind, rows in theirs["rows"].items():
        right, got = np.array(rows), np.array(ours["rows"][kind])
        off = np.inf if right.shape != got.shape else np.abs(right - got).max() / max(1.0, np.abs(right).max())
        off = np.inf if np.isnan(off) else off
        if off > worst:
            worst, where = float(off), kind
    return ("equal", "") if worst <= TOLERANCE else ("DIFFERS", f"{where} by {worst:.2g}")


def _plain(message: str) -> str:
    """Without folders, for counting."""
    return re.sub(r"(/\S+/)+", "…/", message)[:240]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="a Python with sentence-transformers")
    parser.add_argument("--edits", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="checkpoints to edit, by name")
    parser.add_argument("--out", type=Path, help="a line of JSON for each edit")
    parser.add_argument("--keep", type=Path, help="leave the last edited folder there")
    options = parser.parse_args()
    names = options.only or list(fuzz_edits.bases())
    counts: collections.Counter[str] = collections.Counter()
    why: collections.Counter[tuple[str, str]] = collections.Counter()
    out = options.out.open("a") if options.out else None
    with tempfile.TemporaryDirectory() as work:
        sides = [Side(options.reference, "reference", work), Side(sys.executable, "ours", work)]
        names = [name for name in names if computed_as_it_stands(name, sides)]
        began = time.perf_counter()
        for number in range(options.first, options.first + options.edits):
            name = names[number % len(names)]
            folder = Path(work) / f"{number}"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(HERE / name, folder, ignore=shutil.ignore_patterns("reference.*"))
            edit = fuzz_edits.draw(number, folder)
            if not edit:
                continue
            answers = [side.ask(folder, TEXTS) for side in sides]
            result, detail = compare(*answers)
            counts[result] += 1
            why[result, detail if "refused" in result else ""] += 1
            if result.isupper():
                print(f"{number} {name}: {edit} → {result}: {detail}", flush=True)
            if out:
                line = {"number": number, "name": name, "edit": edit, "result": result, "detail": detail}
                out.write(json.dumps(line) + "\n")
                out.flush()
        if options.keep:
            shutil.copytree(folder, options.keep, symlinks=True)
        for side in sides:
            side.close()
    print(f"{sum(counts.values())} edits in {time.perf_counter() - began:.0f} s: {dict(counts)}")
    for alone in ("refused here alone", "accepted here alone"):
        print(alone)
        for (result, detail), count in why.most_common():
            if result == alone:
                print(f"{count:5} {detail}")
    return 1 if counts["DIFFERS"] else 0


if __name__ == "__main__":
    sys.exit(main())
