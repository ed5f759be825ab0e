"""Who wants to know how a call goes on: which texts are computed, and which were cut."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

__all__ = ["Watch", "watch_of_caller", "watched_by"]


class Watch(Protocol):
    """Told while a call runs; by the device's threads too, hence at once and without waiting."""

    def computed(self, texts: int) -> None:
        """`texts` more have their row, or a reason why they have none; negative: as many begin anew."""

    def cut(self, places: Sequence[int]) -> None:
        """The texts at these places of the call are longer than the model reads."""


_watch: ContextVar[Watch | None] = ContextVar("akidb_mlx_watch", default=None)


@contextmanager
def watched_by(watch: Watch) -> Iterator[None]:
    """Calls and streams that are begun within it tell `watch`."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def watch_of_caller() -> Watch | None:
    """Whoever watches what is begun here, if anybody."""
    return _watch.get()
