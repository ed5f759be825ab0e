"""A progress bar over texts, which counts them when they are computed."""

import contextlib
import sys
import threading
from collections.abc import Sequence
from typing import Any, Self

from akidb_mlx.pipeline.watching import Watch

__all__ = ["Progress", "above_bars"]


class Progress:
    """A progress bar over texts, or none; and whoever else watches."""

    def __init__(self, total: int, shown: bool, also: Watch | None = None) -> None:
        """Show a bar up to `total`, or nothing; pass on what happens to `also`."""
        self._left = total
        self._also = also
        self._bar = None
        self._lock = threading.Lock()  # texts are counted on the devices' threads
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="text", desc="Embedding", dynamic_ncols=True)

    def computed(self, texts: int) -> None:
        """Count texts."""
        if self._also is not None:
            self._also.computed(texts)
        with self._lock:
            if self._bar is not None:
                self._bar.update(texts)
                self._left -= texts

    def cut(self, places: Sequence[int]) -> None:
        """Pass it on."""
        if self._also is not None:
            self._also.cut(places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        with self._lock:
            if self._bar is not None:
                if kind is None:  # what needed no device
                    self._bar.update(self._left)
                self._bar.close()
                self._bar = None


def above_bars() -> contextlib.AbstractContextManager[object]:
    """Within it a line on the terminal stands above all bars of tqdm's, ours and others', not in the midst of one."""
    tqdm: Any = sys.modules.get("tqdm")
    return contextlib.nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(file=sys.stderr)
