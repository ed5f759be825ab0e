"""A line on standard error: share of the input, rows, rows a second, time passed and left."""

import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

from akidb_mlx.corpus.sources import Source

__all__ = ["Progress"]

# A log file gets a line now and then, a terminal a lively one (seconds).
_LOG_S = 10.0
_TERMINAL_S = 0.2


class Progress:
    """Counts rows and shows bytes, because how many rows a file has is known only at its end."""

    def __init__(self, sources: Sequence[Source], shown: bool) -> None:
        """Show nothing unless `shown`."""
        self._before = [0, *accumulate(source.size for source in sources)]
        self._shown = shown
        self._bar: Any = None
        self._rows = 0
        self._began = time.monotonic()

    def start(self, index: int, position: int) -> None:
        """Begin where `position` bytes of source `index` are done."""
        if self._shown:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._before[-1],
                initial=self._before[index] + position,
                bar_format="{percentage:3.0f}%|{bar:30}| {desc} [{elapsed}<{remaining}]",
                mininterval=_TERMINAL_S if sys.stderr.isatty() else _LOG_S,
            )
        self._began = time.monotonic()

    def update(self, index: int, position: int, rows: int) -> None:
        """So many rows more, the last of them ending at `position` of source `index`."""
        self._rows += rows
        if self._bar is not None:
            rate = self._rows / max(time.monotonic() - self._began, 1e-9)
            self._bar.set_description_str(f"{self._rows:,} rows, {rate:,.0f} rows/s", refresh=False)
            self._bar.update(max(0, self._before[index] + position - self._bar.n))

    def finish(self, what: str) -> None:
        """All rows are done; say what still happens."""
        if self._bar is not None:
            self._bar.set_description_str(f"{self._rows:,} rows; {what}", refresh=False)
            self._bar.update(self._bar.total - self._bar.n)
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
