"""Several processes behind one address: the sockets are this process's, the workers inherit them and take turns.

Each worker sees one GPU of CUDA, if there are any, since MLX uses the first that it sees. A worker that dies is
started again; this process loads no model and opens no GPU.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from akidb_mlx import errors
from akidb_mlx.device.cores import THREAD_VARIABLES, available_cores
from akidb_mlx.device.visible import CUDA_VARIABLE, visible_gpus
from akidb_mlx.server.logs import configure_logging
from akidb_mlx.server.models import Models
from akidb_mlx.server.running import Greet, serve_at
from akidb_mlx.server.served import ServedConfig
from akidb_mlx.server.settings import ServerSettings
from akidb_mlx.server.team import ABSENT, Share, Team

__all__ = ["plan_workers", "supervise"]

_log = logging.getLogger(__name__)
# A worker that dies is started again after the first of these many seconds; if it dies again, after the next.
_PAUSES_S = (0.5, 2.0, 8.0, 30.0)
# One that served so long (seconds) begins with the first again.
_WELL_S = 60.0
# What a worker may take to end beyond the time that its requests have.
_END_S = 15.0
_EACH = "each loads the models, and memory_limit_mb, max_queued_tokens and max_requests are each one's own"


def plan_workers(wanted: int | Literal["auto"], devices: Sequence[str | None]) -> list[dict[str, str]]:
    """What each worker's environment says besides this process's; warns where workers share a device.

    `devices`: the `device` of each model.
    """
    if wanted == 1:
        return [{}]
    gpus = [] if devices and all(device == "cpu" for device in devices) else visible_gpus()
    count = max(1, len(gpus)) if wanted == "auto" else wanted
    if count == 1:
        return [{}]
    if gpus:
        if count > len(gpus):
            _log.warning("%d workers share %d GPU(s): %s", count, len(gpus), _EACH)
        return [{CUDA_VARIABLE: gpus[number % len(gpus)], **_share_of_cores(count)} for number in range(count)]
    _log.warning("%d workers share one device, all of which one process can use: %s", count, _EACH)
    return [_share_of_cores(count) for _ in range(count)]


def _share_of_cores(workers: int) -> dict[str, str]:
    """What has a worker compute, and start processes that cut texts into tokens, for its share of the cores."""
    if any(os.environ.get(name) for name in THREAD_VARIABLES):
        return {}
    return {THREAD_VARIABLES[0]: str(max(1, available_cores() // workers))}


def supervise(
    environments: Sequence[Mapping[str, str]],
    sockets: Mapping[str, socket.socket],
    configs: Mapping[str, ServedConfig],
    settings: ServerSettings,
    api_key: str | None,
    greet: Greet,
) -> None:
    """Run a worker for each environment until SIGINT or SIGTERM; a second one does not wait for requests.

    Raises:
        What the first worker's start raises: then none serves.
    """
    with tempfile.TemporaryDirectory(prefix="akidb-mlx-") as folder:
        given = _Given(dict(sockets), dict(configs), settings, api_key, Path(folder))
        _Supervisor(environments, given, lambda: greet(list(sockets), configs)).run()


@dataclass(frozen=True)
class _Given:
    """What a worker is started with."""

    sockets: dict[str, socket.socket]
    configs: dict[str, ServedConfig]
    settings: ServerSettings
    api_key: str | None
    folder: Path


@dataclass
class _Worker:
    """One of the processes, or its place while it is away."""

    environment: Mapping[str, str]
    process: BaseProcess | None = None
    pipe: Connection | None = None
    ready: bool = False
    began: bool = False
    ready_at: float = 0.0
    deaths: int = 0
    again_at: float = field(default=float("inf"))

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.exitcode is None


class _Supervisor:
    """Starts, watches and stops the workers."""

    def __init__(self, environments: Sequence[Mapping[str, str]], given: _Given, greet: Callable[[], None]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._board: MutableSequence[int] = self._context.RawArray("l", [ABSENT] * len(environments))
        self._workers = [_Worker(environment) for environment in environments]
        self._given = given
        self._greet = greet
        self._signals = 0
        self._woken, self._wake = os.pipe()

    def run(self) -> None:
        """Until told to stop; the workers end before this does."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._start(0)  # alone: what it downloads or compiles the others find
            while not self._signals:
                self._look(self._pause())
                if self._workers[0].ready and not self._workers[-1].began:
                    for index in range(1, len(self._workers)):
                        self._start(index)
                    self._greet()
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(self._wake)
        _log.info("stopped")

    def _signalled(self, *_: object) -> None:
        self._signals += 1
        os.write(self._wake, b"!")

    def _start(self, index: int) -> None:
        worker = self._workers[index]
        worker.pipe, theirs = self._context.Pipe()
        worker.process = self._context.Process(
            target=_work,
            args=(index, self._board, theirs, self._given),
            name=f"akidb-mlx-worker-{index}",
        )
        with _environment(worker.environment):
            worker.process.start()
        theirs.close()
        fields = {"number": index, "pid": worker.process.pid, **worker.environment}
        _log.info("worker started", extra={"fields": fields})
        worker.ready, worker.began, worker.again_at = False, True, float("inf")

    def _pause(self) -> float | None:
        """Until the next worker is to be started again."""
        soonest = min(worker.again_at for worker in self._workers)
        return None if soonest == float("inf") else max(0.0, soonest - time.monotonic())

    def _look(self, timeout: float | None) -> None:
        """Wait for news, and act on them."""
        pipes = {worker.pipe: worker for worker in self._workers if worker.pipe is not None}
        for news in wait([*pipes, self._woken], timeout):
            if isinstance(news, int):
                os.read(news, 64)
            else:
                self._hear(pipes[news])  # type: ignore[index]
        for index, worker in enumerate(self._workers):
            if worker.again_at <= time.monotonic() and not self._signals:
                self._start(index)

    def _hear(self, worker: _Worker) -> None:
        assert worker.pipe is not None
        assert worker.process is not None
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        if said is None:
            worker.ready, worker.ready_at = True, time.monotonic()
        elif not self._signals and not worker.deaths and not any(one.ready for one in self._workers):
            raise _as_raised(*said)

    def _died(self, worker: _Worker) -> None:
        """Its end of the pipe is closed: its process is ending or gone."""
        assert worker.process is not None
        index = self._workers.index(worker)
        worker.process.join(_END_S)
        if worker.alive:
            worker.process.kill()
            worker.process.join()
        self._board[index] = ABSENT
        if worker.pipe is not None:
            worker.pipe.close()
        worker.pipe = None
        if self._signals:
            return
        code = worker.process.exitcode
        first = not any(one.ready or one.deaths for one in self._workers)
        if not worker.ready and first:
            raise errors.BackendError(f"the first worker ended at its start (exit code {code}); the log says why")
        if worker.ready and time.monotonic() - worker.ready_at > _WELL_S:
            worker.deaths = 0
        pause = _PAUSES_S[min(worker.deaths, len(_PAUSES_S) - 1)]
        worker.deaths += 1
        worker.ready, worker.again_at = False, time.monotonic() + pause
        fields = {"number": index, "exit_code": code, "again_in_s": pause}
        _log.error("a worker ended and is started again", extra={"fields": fields})

    def _stop(self) -> None:
        """Tell all of them, and wait; at a second signal tell them again."""
        told, until = 0, time.monotonic() + self._given.settings.shutdown_timeout_s + _END_S
        while (alive := [one for one in self._processes if one.exitcode is None]) and time.monotonic() < until:
            if told < max(1, self._signals):
                told = max(1, self._signals)
                for process in alive:
                    process.terminate()
            ended_or_woken = [*(process.sentinel for process in alive), self._woken]
            if self._woken in wait(ended_or_woken, max(0.0, until - time.monotonic())):
                os.read(self._woken, 64)
        for process in self._processes:
            if process.exitcode is None:
                process.kill()
            process.join()

    @property
    def _processes(self) -> list[BaseProcess]:
        return [worker.process for worker in self._workers if worker.process is not None]


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Any:
    """This process's environment with `more`, for a child that is started meanwhile."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _as_raised(kind: str, message: str) -> Exception:
    """An error that a worker told, as its class."""
    known = getattr(errors, kind, None)
    return known(message) if known is not None else OSError(message)


# ── in the worker ────────────────────────────────────────────────────────────────────────────────────────


def _work(index: int, board: MutableSequence[int], pipe: Connection, given: _Given) -> None:
    """Serve as worker `index` until told to stop, or until the process that started this one is gone."""
    os.setpgrp()  # Ctrl-C in a terminal is for the process that started this one, which passes it on once
    configure_logging(worker=index)
    team = Team(Share(board, index), given.folder)
    place = team.socket(index)
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(place))
        own.listen(64)
        serving = serve_at(
            given.sockets,
            Models(given.configs),
            given.settings,
            given.api_key,
            greet=lambda *_: pipe.send(None),
            team=team,
            own=own,
            until=pipe.fileno(),
        )
        try:
            asyncio.run(serving)
        except (errors.AkiDBMLXError, OSError) as error:
            _log.error("the worker could not serve", extra={"fields": {"error": str(error)}})
            with contextlib.suppress(OSError):
                pipe.send((type(error).__name__, str(error)))
