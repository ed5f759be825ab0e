"""Turns between the tests of several workers: what measures the machine has it for itself."""

import contextlib
import fcntl
import os
from pathlib import Path

from support.places import ROOT

# Two files that each worker finds; they are locked, not written.
_DOOR, _MACHINE = Path(__file__), ROOT / "tests" / "conftest.py"


@contextlib.contextmanager
def turn(alone):
    """Beside the tests of other workers, or beside none; those that come later wait for who waits to be alone."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    with _DOOR.open() as door, _MACHINE.open() as machine:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(machine, fcntl.LOCK_UN)  # closing does not, while a forked child has the file too
