"""The same model with and without one way to compute, in turn: what `bench --compare` shows."""

import contextlib
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from akidb_mlx import errors
from akidb_mlx.bench.embedder import WORDS
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.device.choice import choose_device
from akidb_mlx.device.tuning import TUNINGS, VARIABLE
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import BackendError, ConfigError

__all__ = ["Compared", "compare"]

_ROUNDS = 7
_QUERIES = 20
_PAUSE_S = 3.0
_WORDS_OF_A_TEXT = (4, 250)


@dataclass
class Compared:
    """One way beside the plain one; ratios of rounds that took turns, each as (median, least, greatest)."""

    name: str
    what: str
    tokens_per_s: tuple[float, float, float]
    """Above 1: it is faster."""
    query_ms: tuple[float, float, float]
    """Below 1: it is faster."""
    query_after_a_pause_ms: tuple[float, float, float]
    largest_difference: float
    """Between the vectors."""

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def compare(config: EmbedderConfig, names: Sequence[str] = (), seconds: float = 2.0) -> Iterator[Compared]:
    """Compare each of `names`, without any all that may help on this device; about `seconds` for each round.

    Two processes with the model each, one after the other at work.

    Raises:
        ConfigError: no such way, or none that may help here.
    """
    if unknown := [name for name in names if name not in TUNINGS]:
        raise ConfigError(f"there is no {unknown[0]!r} to compare; there is {', '.join(TUNINGS)}")
    kind = choose_device(config.device).kind
    chosen = list(names) or [name for name, (_, kinds) in TUNINGS.items() if kind in kinds]
    if not chosen:
        raise ConfigError(f"none of {', '.join(TUNINGS)} may help on this device ({kind}); name one to see so")
    said = [name for name in os.environ.get(VARIABLE, "").split(",") if name and name not in chosen]
    with _side(config, said) as plain:
        for name in chosen:
            with _side(config, [*said, name]) as other:
                yield _compared(name, plain, other, seconds)


def _compared(name: str, plain: "_Side", other: "_Side", seconds: float) -> Compared:
    count = 64
    while plain.ask("documents", count)[0] < seconds / 2 and count < 2**16:
        count *= 2
    rows = [side.ask("documents", count)[1] for side in (plain, other)]
    ratios: list[list[float]] = [[], [], []]
    for number in range(_ROUNDS):
        for place, (what, much) in enumerate((("documents", count), ("queries", _QUERIES), ("after a pause", 1))):
            if what == "after a pause" and number >= 3:
                continue
            a, b = (side.ask(what, much)[0] for side in (plain, other))
            ratios[place].append(a / b if what == "documents" else b / a)
    told = [(statistics.median(one), min(one), max(one)) for one in ratios]
    difference = float(np.abs(rows[0] - rows[1]).max())
    return Compared(name, TUNINGS[name][0], told[0], told[1], told[2], difference)


class _Side:
    """A process with the model."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def ask(self, what: str, count: int) -> tuple[float, Any]:
        """Seconds, and rows of documents."""
        self._pipe.send((what, count))
        return self.hear()

    def hear(self) -> tuple[float, Any]:
        """What it says next."""
        try:
            said = self._pipe.recv()
        except EOFError:
            raise BackendError("a process that compares ended; the lines above say why") from None
        if isinstance(said[0], str):
            raise getattr(errors, said[0], BackendError)(said[1])
        return said[0], said[1]


@contextlib.contextmanager
def _side(config: EmbedderConfig, names: Sequence[str]) -> Iterator[_Side]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ",".join(names)
    process = context.Process(target=_work, args=(theirs, config), daemon=True)
    try:
        process.start()
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
    theirs.close()
    try:
        side = _Side(ours)
        side.hear()
        yield side
    finally:
        ours.close()
        process.join(30)
        if process.is_alive():
            process.kill()


def _work(pipe: Connection, config: EmbedderConfig) -> None:
    """In the process: answer until the other end is closed."""
    with contextlib.suppress(EOFError, OSError):
        try:
            with Embedder.load(config) as embedder:
                embedder.encode_query(["one text"])
                pipe.send((0.0, None))
                while True:
                    what, count = pipe.recv()
                    pipe.send(_measured(embedder, what, count))
        except errors.AkiDBMLXError as error:
            pipe.send((type(error).__name__, str(error)))


def _measured(embedder: Embedder, what: str, count: int) -> tuple[float, Any]:
    rng = random.Random(count)
    if what == "documents":
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(*_WORDS_OF_A_TEXT))) for _ in range(count)]
        began = time.perf_counter()
        rows = embedder.encode_document(texts)
        return time.perf_counter() - began, rows
    if what == "after a pause":
        time.sleep(_PAUSE_S)
    began = time.perf_counter()
    for _ in range(count):
        embedder.encode_query([" ".join(rng.choices(WORDS, k=8))])
    return (time.perf_counter() - began) / count, None
