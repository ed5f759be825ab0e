"""What the workers of one server know of each other: who serves, how many connections each has, what each counted."""

import asyncio
from collections.abc import Iterable, Mapping, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ABSENT", "OWN", "Share", "Team", "add_up"]

ABSENT = -1
"""On the board: a worker that is not there, or not ready yet."""
OWN = "worker=own"
"""The query of a request that wants what this worker alone counted."""
# A worker that takes connections all the same, for the others do not, waits so long before (seconds).
_PATIENCE_S = 0.05
_ANSWER_S = 2.0


@dataclass
class Share:
    """A worker's share of the connections: those with fewer take the next one, wherever they wait."""

    board: MutableSequence[int]
    """Connections of each worker, in memory that they share; each writes its own place alone."""
    index: int
    patience_s: float = _PATIENCE_S
    _asked: float = 0.0
    _unmoved: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Those with fewer while a connection waits: how many they have, and since when."""

    def tell(self, connections: int) -> None:
        """So many has this worker, once it is ready."""
        if self.board[self.index] != ABSENT:
            self.board[self.index] = connections

    def is_ready(self) -> None:
        """From now on it is counted."""
        self.board[self.index] = 0

    def ends(self) -> None:
        """It takes no more."""
        self.board[self.index] = ABSENT

    def is_next(self, connections: int, now: float) -> bool:
        """Whether the next connection is this worker's: nobody who is ready has fewer, or they do not take it."""
        others = {place: count for place, count in enumerate(self.board) if place != self.index and count != ABSENT}
        if not others or self.board[self.index] == ABSENT:
            return not others
        before = self._unmoved if now - self._asked < self.patience_s else {}
        self._asked, self._unmoved = now, {}
        for place, count in others.items():
            if count < connections:
                known, since = before.get(place, (count, now))
                self._unmoved[place] = count, since if known == count else now
        return all(now - since >= self.patience_s for _, since in self._unmoved.values())


@dataclass(frozen=True)
class Team:
    """One worker among several behind the same address."""

    share: Share
    folder: Path
    """Where each worker's own socket is."""

    @property
    def index(self) -> int:
        """Which of them this is, from 0."""
        return self.share.index

    @property
    def serving(self) -> int:
        """How many are ready."""
        return sum(count != ABSENT for count in self.share.board)

    def __len__(self) -> int:
        return len(self.share.board)

    def socket(self, index: int) -> Path:
        """Where a worker is asked for what it alone knows."""
        return self.folder / f"{index}.sock"

    async def ask_others(self, path: str, api_key: str | None) -> dict[int, bytes]:
        """What the others answer to a GET; who does not answer in time is left out."""
        others = [index for index in range(len(self)) if index != self.index]
        answers = await asyncio.gather(*(self._ask(index, path, api_key) for index in others))
        return {index: answer for index, answer in zip(others, answers, strict=True) if answer is not None}

    async def _ask(self, index: int, path: str, api_key: str | None) -> bytes | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(str(self.socket(index)))
                try:
                    key = f"Authorization: Bearer {api_key}\r\n" if api_key is not None else ""
                    asked = f"GET {path}?{OWN} HTTP/1.1\r\nHost: localhost\r\n{key}Connection: close\r\n\r\n"
                    writer.write(asked.encode())
                    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        return body if head.startswith(b"HTTP/1.1 200") and b"chunked" not in head.lower() else None


def add_up(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """/stats of several workers as one: counts are summed, `loaded` where any is, idle since the last of all."""
    whole: dict[str, Any] = {"models": {}, "weights_bytes": 0, "resident_bytes": 0}
    for told in answers:
        whole["weights_bytes"] += told["weights_bytes"]
        whole["resident_bytes"] += told["resident_bytes"]
        for model, stats in told["models"].items():
            known = whole["models"].get(model)
            whole["models"][model] = stats if known is None else {name: _added(name, known, stats) for name in stats}
    return whole


def _added(name: str, known: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
    a, b = known[name], more[name]
    if name == "loaded":
        return a or b
    if name == "idle_s":
        return b if a is None else a if b is None else min(a, b)
    return a if name in ("kind", "keep_alive", "memory_limit_mb") else a + b
