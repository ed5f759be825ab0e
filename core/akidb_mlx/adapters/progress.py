"""One progress bar over several calls."""

from collections.abc import Iterator
from contextlib import contextmanager

from akidb_mlx.pipeline.progress import Progress
from akidb_mlx.pipeline.watching import watched_by

__all__ = ["progress_over"]


@contextmanager
def progress_over(texts: int, shown: bool) -> Iterator[None]:
    """A bar over the texts of all calls within it, which counts them as they are computed; or nothing."""
    if not shown:
        yield
        return
    with Progress(texts, shown) as progress, watched_by(progress):
        yield
