"""What a run shows on standard error: share of the input, rows, rows a second, time passed and left.

A bar on a terminal, lines in a file. A thread draws, so that the clock runs while the device computes.
"""

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

from akidb_mlx.corpus.sources import Source

__all__ = ["Progress"]

# How often a terminal is drawn, and a log file gets a line; its first one sooner (seconds).
_TERMINAL_S = 0.5
_FIRST_LOG_S, _LOG_S = 2.0, 10.0
# A narrower terminal has no room for the bar.
_WIDE = 70


class Progress:
    """Counts rows when they are computed, and shows bytes, because how many rows a file has is known at its end only.

    Rows are read in order, computed in any, and finished in order; the share of the input is by bytes up to the last
    finished row, and beyond that by how many of the rows that are read are computed.
    """

    def __init__(self, sources: Sequence[Source], shown: bool) -> None:
        """Show nothing unless `shown`."""
        self._before = [0, *accumulate(source.size for source in sources)]
        self._shown = shown
        self._terminal = shown and sys.stderr.isatty()
        self._wide = shutil.get_terminal_size().columns >= _WIDE
        self._bar: Any = None
        self._what = ""
        self._earlier = 0
        self._began = time.monotonic()
        self._finished_at = self._read_at = 0
        self._finished = self._read = self._computed = self._handed_over = 0
        self._drawing: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self, index: int, position: int, rows: int = 0) -> None:
        """Begin where `position` bytes of source `index` are done, `rows` rows by an earlier run."""
        self._earlier = rows
        self._began = time.monotonic()
        self._finished_at = self._read_at = self._before[index] + position
        if not self._shown:
            return
        if self._terminal:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._before[-1],
                initial=self._finished_at,
                bar_format="{percentage:3.0f}%" + ("|{bar}|" if self._wide else "") + " {desc} [{elapsed}<{remaining}]",
                dynamic_ncols=True,
                smoothing=0,
                miniters=1,
                mininterval=0,
            )
        self._drawing = threading.Thread(target=self._draw_on, name="akidb-mlx-progress", daemon=True)
        self._drawing.start()

    def read(self, index: int, position: int) -> None:
        """A row more is read, ending at `position` of source `index`; it waits for its vector."""
        self._read += 1
        self._read_at = self._before[index] + position

    def computed(self, rows: int) -> None:
        """`rows` more have their vector, in any order; called by the device's threads."""
        self._computed += rows

    def handed_over(self, rows: int) -> None:
        """`rows` computed ones came out in order: those that are finished count them."""
        self._handed_over += rows

    def finished(self, index: int, position: int, rows: int) -> None:
        """`rows` more are done in order, the last of them ending at `position` of source `index`."""
        self._finished += rows
        self._finished_at = self._before[index] + position

    def end(self, what: str) -> None:
        """All rows are done; say what still happens."""
        self._what = what
        self._finished_at = self._read_at = self._before[-1]
        if self._shown:
            self._draw()

    @property
    def rows(self) -> int:
        """Rows that this run has computed, or that need no vector."""
        return self._finished + self._ahead

    @property
    def _ahead(self) -> int:
        """Rows that are computed and not finished yet."""
        return min(max(0, self._computed - self._handed_over), max(0, self._read - self._finished))

    @property
    def position(self) -> int:
        """Bytes of the input that are done."""
        unfinished = max(1, self._read - self._finished)
        return int(self._finished_at + max(0, self._read_at - self._finished_at) * self._ahead / unfinished)

    def _draw_on(self) -> None:
        pause = _TERMINAL_S if self._terminal else min(_FIRST_LOG_S, _LOG_S)
        while not self._ended.wait(pause):
            self._draw()
            pause = _TERMINAL_S if self._terminal else _LOG_S

    def _draw(self) -> None:
        if self._bar is not None:
            with self._bar.get_lock():
                self._bar.n = max(self._bar.n, self.position)
                self._bar.set_description_str(self._told(" rows/s" if self._wide else "/s"), refresh=True)
            return
        seconds = int(time.monotonic() - self._began)
        share = self.position / self._before[-1] if self._before[-1] else 1.0
        sys.stderr.write(f"{share:4.0%} {self._told(' rows/s')}, {seconds // 60}:{seconds % 60:02} so far\n")
        sys.stderr.flush()

    def _told(self, unit: str) -> str:
        rows, seconds = self.rows, max(time.monotonic() - self._began, 1e-9)
        told = f"{self._earlier + rows:,} rows"
        # A narrow terminal has no room for OUT's name.
        what = self._what.split(" ")[0] if self._terminal and not self._wide else self._what
        return f"{told}; {what}" if what else f"{told}, {rows / seconds:,.0f}{unit}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._drawing is not None:
            self._drawing.join()
        if self._bar is not None:
            self._bar.close()
