"""Processes that cut the texts of long calls into tokens, so that Python's lock is left to who keeps a GPU busy.

`tokenizers` works outside the lock, but its ids become Python objects, one per token, under it: that took a small model
on an H200 half of its speed. A process has two connections, for it makes arrays of one part while another is cut.
"""

import contextlib
import logging
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from akidb_mlx.device.cores import CORES_OF_A_PROCESS
from akidb_mlx.device.forks import NO_FORK
from akidb_mlx.errors import AkiDBMLXError

__all__ = ["LANES", "LEAST_PART", "READY", "Answer", "Parts", "TokenizerProcesses", "unpacked"]

_log = logging.getLogger(__name__)

Parts = tuple[bytes, list[int], list[int], list[int]]
"""int32 ids of all texts after one another, how many each has, which were cut, where second texts start."""
Answer = Parts | AkiDBMLXError | None
"""None where the texts are to be cut by who asked, who meets the error there."""

READY = b"ready"
LANES = 2
"""Connections of a process."""
LEAST_PART = 128
"""Texts of a part that is worth sending."""
_LEAST_TEXTS, _WITHIN_S = 2048, 10.0  # so many in such parts within this time make it worth starting
_IDLE_S = 60.0
_MOST_FAILURES = 2
_END_S = 5.0
_LOOK_S = 0.5
# Isolated, for a module in the current folder must not stand before the standard library's; then this one's path.
_PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # the other side gets it too, and ends this one
    "import sys; from multiprocessing.connection import Connection\n"
    "lanes = [Connection(int(lane)) for lane in sys.argv[2:]]\n"
    "try: sys.path[:] = lanes[0].recv()\n"
    "except (EOFError, OSError): sys.exit()\n"
    "from akidb_mlx.pipeline.tokenizer_process import serve; serve(lanes, float(sys.argv[1]))"
)


@dataclass(eq=False)
class _Run:
    """Processes that were started together."""

    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    lanes: list[Connection] = field(default_factory=list)
    free: "queue.SimpleQueue[Connection]" = field(default_factory=queue.SimpleQueue)
    lost: bool = False

    def end(self) -> None:
        """Shut the connections down and wait for the processes."""
        self.shut()
        self.wait()

    def shut(self) -> None:
        """Shut the connections down, which ends the processes and whoever waits for their answers.

        They are closed by who uses them last: a thread that waits on one would read from the next file of that number.
        """
        self.lost = True
        for lane in self.lanes:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(lane.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Until the processes have ended, after some seconds by force."""
        until = time.monotonic() + _END_S
        for process in self.processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _runs.discard(self)  # a forked child goes through a copy

    def leave(self) -> None:
        """In a forked child: the processes are its parent's, and end with that alone."""
        self.lost = True
        for lane in self.lanes:
            lane.close()
        for process in self.processes:
            process.returncode = 0  # nothing to wait for here


_runs: set[_Run] = set()
"""All that were begun and not ended."""


class TokenizerProcesses:
    """Those of one tokenizer: started once many texts come, ended after a minute without any."""

    def __init__(self, count: int, *, idle_s: float = _IDLE_S) -> None:
        """Start nothing yet."""
        self._count, self._idle_s = count, idle_s
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._starts = False
        self._closes = 0
        self._failures = 0
        self._texts, self._since = 0, 0.0

    @property
    def lanes(self) -> int:
        """Parts that are cut at once."""
        return LANES * self._count

    def ask(self, tokenizer: object, method: str, items: Sequence[Any], **options: Any) -> Parts | None:
        """What `tokenizer` makes of the items, cut elsewhere; None where it is to do it here.

        Raises:
            InputError: as `tokenizer` itself.
        """
        if len(items) < LEAST_PART:
            return None
        run = self._started(tokenizer, len(items))
        question = None if run is None else pickle.dumps((method, [_plain(item) for item in items], options), 5)
        lane = None if run is None else _free_lane(run)
        if run is None or lane is None or question is None:
            return None
        try:
            lane.send_bytes(question)
            answer: Answer = pickle.loads(lane.recv_bytes())
        except (EOFError, OSError):
            self._fail(run)
            return None
        except BaseException:  # interrupted half-way
            self._drop(run)
            raise
        run.free.put(lane)
        if isinstance(answer, AkiDBMLXError):
            raise answer
        return answer

    def close(self, *, wait: bool = True) -> None:
        """End the processes; the next long call starts others. They may end a little later without `wait`."""
        with self._lock:
            self._closes += 1
            run, self._run = self._run, None
        if run is None:
            return
        if not wait:
            run.shut()
            with contextlib.suppress(RuntimeError):  # this process is ending: then it waits
                threading.Thread(target=self._end, args=(run,), name="akidb-mlx-end", daemon=True).start()
                return
        self._end(run)

    def after_fork(self) -> None:
        """In a forked child: the processes are its parent's."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._reset()

    def _started(self, tokenizer: object, texts: int) -> _Run | None:
        """The processes, where they are ready; starts them where it is worth it."""
        with self._lock:
            if self._run is not None or self._starts:
                return self._run
            now = time.monotonic()
            if now - self._since > _WITHIN_S:
                self._texts, self._since = 0, now
            self._texts += texts
            if self._texts < _LEAST_TEXTS or self._failures >= _MOST_FAILURES or not _can_start():
                return None
            self._starts, closes = True, self._closes
        try:
            threading.Thread(target=self._start, args=(tokenizer, closes), name="akidb-mlx-start", daemon=True).start()
        except RuntimeError:  # the process is ending
            self._starts = False
        return None

    def _start(self, tokenizer: object, closes: int) -> None:
        run = _Run()
        try:
            state = pickle.dumps(tokenizer, 5)
            with NO_FORK:
                _runs.add(run)
            for _ in range(self._count):
                with NO_FORK:
                    _start_process(run, self._idle_s)
            for place in range(self._count):
                first = run.lanes[place * LANES]
                first.send(sys.path)
                first.send_bytes(state)
            for lane in run.lanes:
                if lane.recv_bytes() != READY:
                    raise EOFError("another answer than expected")
                run.free.put(lane)
        except Exception as error:
            run.end()
            with self._lock:
                self._starts, self._failures = False, self._failures + 1
            _log.info("texts are cut into tokens by this process alone: no other one could be started (%r)", error)
            return
        with self._lock:
            self._starts, self._texts = False, 0
            wanted = closes == self._closes
            if wanted:
                self._run = run
                self._finalizer = weakref.finalize(self, run.end)
        if not wanted:  # closed meanwhile
            run.end()
            return
        # They end by themselves when idle, and would stay as zombies.
        watch = threading.Thread(target=_watch, args=(run, weakref.ref(self)), name="akidb-mlx-watch", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread is to be had
            watch.start()

    def _fail(self, run: _Run) -> None:
        """A connection was closed from the other side."""
        with self._lock:
            first, run.lost = not run.lost, True
        if not first:
            return
        self._drop(run)
        codes = {process.returncode for process in run.processes} - {0}
        if codes:
            self._failures += 1
            _log.warning("a process that cuts texts into tokens ended (exit code %s); this one does it", codes.pop())

    def _drop(self, run: _Run) -> None:
        with self._lock:
            if self._run is run:
                self._run = None
        self._end(run)

    def _end(self, run: _Run) -> None:
        run.end()
        with self._lock:
            if self._finalizer is not None and self._run in (None, run):
                self._finalizer.detach()


def _watch(run: _Run, owner: "weakref.ref[TokenizerProcesses]") -> None:
    for process in run.processes:
        process.wait()
    if (found := owner()) is not None:
        found._fail(run)


def _plain(item: Any) -> Any:
    """A text, or texts of a pair, without what a class of its own adds, which the other process may not have."""
    return tuple(map(_plain, item)) if isinstance(item, tuple) else str.__str__(item) if type(item) is not str else item


def unpacked(parts: Parts) -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    """(tokens,) ids of each text, which may be written to: views of one array."""
    ids = np.frombuffer(bytearray(parts[0]), np.int32)
    ends = np.cumsum(parts[1]).tolist()
    return [ids[end - count : end] for end, count in zip(ends, parts[1], strict=True)]


def _free_lane(run: _Run) -> Connection | None:
    """A connection that nobody waits on; None once the processes are gone."""
    while not run.lost:
        with contextlib.suppress(queue.Empty):
            return run.free.get(timeout=_LOOK_S)
    return None


def _start_process(run: _Run, idle_s: float) -> None:
    theirs: list[Connection] = []
    try:
        for _ in range(LANES):
            ours, their = Pipe()
            run.lanes.append(ours)
            theirs.append(their)
        lanes = [lane.fileno() for lane in theirs]
        command = [sys.executable, "-I", "-c", _PROGRAM, str(idle_s), *map(str, lanes)]
        threads = os.environ.get("RAYON_NUM_THREADS", str(CORES_OF_A_PROCESS))
        environment = {**os.environ, "AKIDB_MLX_BLAS": "off", "RAYON_NUM_THREADS": threads}
        run.processes.append(subprocess.Popen(command, pass_fds=lanes, env=environment, stdin=subprocess.DEVNULL))
    finally:
        for lane in theirs:
            lane.close()


def _can_start() -> bool:
    """Whether this Python can be started again: it is not another program's, or packed into one."""
    name = os.path.basename(sys.executable or "").lower()  # noqa: PTH119
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


def _after_fork() -> None:
    for run in list(_runs):
        run.leave()
    _runs.clear()


os.register_at_fork(after_in_child=_after_fork)
