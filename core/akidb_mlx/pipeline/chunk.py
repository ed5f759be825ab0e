"""Inputs of a stream that are computed together, and what is told of them."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from akidb_mlx.errors import AkiDBMLXError
from akidb_mlx.model.host_rows import Rows
from akidb_mlx.pipeline.call import Call, OnError
from akidb_mlx.pipeline.watching import Watch

__all__ = ["Chunk", "Queued", "name_text", "report"]

Input = TypeVar("Input")
Queued = list["Future[Rows]"]


@dataclass
class Chunk(Generic[Input]):
    """Inputs of a stream that are computed together."""

    first: int
    texts: Sequence[Input]
    watch: Watch | None = None
    futures: Queued = field(default_factory=list)
    told: int = 0
    """Texts that `watch` was told of."""

    def computed(self, texts: int) -> None:
        """Pass it on."""
        self.told += texts
        if self.watch is not None:
            self.watch.computed(texts)

    def cut(self, places: Sequence[int]) -> None:
        """Pass it on."""
        if self.watch is not None:
            self.watch.cut(places)

    def begin_anew(self) -> None:
        """Its texts are to be computed, whichever were."""
        if self.told:
            self.computed(-self.told)

    @property
    def places(self) -> range:
        """Where its texts stand in the stream."""
        return range(self.first, self.first + len(self.texts))


def report(call: Call[Any], chunk: Chunk[Any], on_error: OnError | None) -> None:
    """Tell which of a chunk's texts have no row."""
    if call.errors and on_error is not None:
        for place in chunk.places:
            if place in call.errors:
                error = call.errors.pop(place)
                name_text(error, chunk.texts, chunk.first)
                on_error(place, error)


def name_text(error: BaseException, texts: Sequence[Any], first: int = 0) -> None:
    """Say which of these texts (or pairs) an error is about, if it is one of them."""
    if isinstance(error, AkiDBMLXError) and error.place is not None and first <= error.place < first + len(texts):
        text = texts[error.place - first]
        error.about(text if isinstance(text, str) else text[-1])
