"""A progress bar over texts."""

import threading
from concurrent.futures import Future
from typing import Any, Self

__all__ = ["Progress"]


class Progress:
    """A progress bar over texts, or none."""

    none: "Progress"

    def __init__(self, total: int, shown: bool) -> None:
        """Show a bar up to `total`, or nothing."""
        self._left = total
        self._bar = None
        self._lock = threading.Lock()  # texts are counted on the device's thread
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="text", desc="Embedding")

    def watch(self, future: "Future[Any]", texts: int) -> "Future[Any]":
        """Count these texts when they are done."""
        if self._bar is not None:
            future.add_done_callback(lambda _: self._count(texts))
        return future

    def _count(self, texts: int) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.update(texts)
                self._left -= texts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        with self._lock:
            if self._bar is not None:
                if kind is None:  # answers are counted a moment after they are given
                    self._bar.update(self._left)
                self._bar.close()
                self._bar = None


Progress.none = Progress(0, False)
