"""Forks that other threads ask for, and processes that are being started."""

import os
import threading

__all__ = ["NO_FORK"]

NO_FORK = threading.RLock()
"""Held while a process is started: `os.fork` on another thread waits for it.

The forked child would have all ends of the new process's pipes: whoever reads from one would not see it end.
"""

# Imported before what stops the device threads at a fork: hooks run in the reverse order, and theirs come first.
os.register_at_fork(before=NO_FORK.acquire, after_in_parent=NO_FORK.release, after_in_child=NO_FORK.release)
