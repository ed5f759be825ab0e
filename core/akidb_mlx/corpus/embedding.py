"""Rows → parts: each row gets a vector or the reason why it has none; a part at a time is in memory."""

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from akidb_mlx import vectors
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.corpus.columns import Columns
from akidb_mlx.corpus.forms import Form
from akidb_mlx.corpus.kept import gather
from akidb_mlx.corpus.parts import PartFacts
from akidb_mlx.corpus.progress import Progress
from akidb_mlx.corpus.row import Row
from akidb_mlx.corpus.splitting import chunk_columns
from akidb_mlx.errors import AkiDBMLXError, BackendError, InputError
from akidb_mlx.pipeline.watching import watched_by
from akidb_mlx.small_vectors import LARGEST

__all__ = ["Encoder", "PlacedRow", "embed_parts", "finish_part"]

# A part ends after this many seconds, or at this much memory of texts and vectors. The first ones end sooner, each
# after twice the time of the one before, so that an early interruption costs little.
_FIRST_PART_S, _PART_S = 2.0, 20.0
_PART_BYTES = 64 * 2**20
_ROW_BYTES = 3000  # a row's Python objects, about
# A chunk takes about this many seconds: on a slow device a kill costs little, a fast one has enough at a time.
_CHUNK_S = 1.0
_CHUNKS_TO_KNOW = 8  # of a fast device, before twice that time
_FIRST_CHUNK, _SMALLEST_CHUNK, _LARGEST_CHUNK = 256, 128, 4096
# After this many consecutive failures of the device, it is to blame and not the texts: stop.
_HOPELESS = 100

PlacedRow = tuple[int, Row]
"""With the index of its source."""


class Encoder(Protocol):
    """What computes rows: an `Embedder`, or several behind Ray, of texts; a `PairScorer` of pairs."""

    @property
    def config(self) -> ModelConfig: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def info(self) -> dict[str, Any]: ...  # noqa: D102
    def stats(self) -> dict[str, Any]: ...  # noqa: D102
    def encode_stream(  # noqa: D102
        self, texts: Iterable[Any], chunk_size: int = ..., *, side: Any = ..., on_error: Any = ...
    ) -> Iterator[Any]: ...


def embed_parts(
    rows: Iterator[PlacedRow], encoder: Encoder, form: Form, progress: Progress
) -> Iterator[list[PlacedRow]]:
    """The rows in order, in parts to commit, each row with a vector or a reason; the device goes on meanwhile."""
    part = _Part(form, progress)
    try:
        yield from _embed_parts(rows, encoder, form, part)
    except (BackendError, KeyboardInterrupt):  # what is embedded so far is kept for the next run
        if part.ends:
            yield part.take()
        raise


def _embed_parts(rows: Iterator[PlacedRow], encoder: Encoder, form: Form, part: "_Part") -> Iterator[list[PlacedRow]]:
    unit_length = bool(encoder.info().get("normalize"))
    largest = min(_LARGEST_CHUNK, form.largest_chunk)
    chunk_size, ahead = min(_FIRST_CHUNK, largest), None
    while ahead is None or not ahead.exhausted:
        ahead = _Ahead(rows, form, unit_length, part.progress)
        began, embedded = time.monotonic(), 0
        with watched_by(ahead):
            chunks = encoder.encode_stream(ahead.texts(), chunk_size, side="document", on_error=ahead.refuse)
        for chunk in chunks:
            ahead.fill(chunk)
            part.add(ahead.done())
            if part.due:
                yield part.take()
            seconds, embedded = time.monotonic() - began, embedded + len(chunk)
            known = seconds > 2 * _CHUNK_S or embedded >= _CHUNKS_TO_KNOW * chunk_size
            if not ahead.stopped and known:
                suited = min(max(int(embedded / seconds * _CHUNK_S), _SMALLEST_CHUNK), largest)
                if not chunk_size / 2 <= suited <= chunk_size * 2:
                    ahead.stopped, chunk_size = True, suited
        ahead.check_device()
        part.add(ahead.done())
        if part.due:
            yield part.take()
    if part.rows:
        yield part.take()


def finish_part(
    part: Sequence[PlacedRow], form: Form, columns: Columns, schema: pa.Schema
) -> tuple[pa.Table, list[dict[str, Any]], PartFacts]:
    """What `Parts.add` wants: the table of good rows, the rejected ones, and what is in them."""
    good = [row for _, row in part if row.reason is None]
    if (limit := LARGEST.get(form.output_dtype)) is not None:
        for row in good:
            if (largest := form.largest(row.vector)) > limit:
                row.reason = f"a number of its vector is {largest:.4g}, beyond {form.output_dtype}; write float32"
        good = [row for row in good if row.reason is None]
    rejects = [
        {
            "source": row.source,
            "row": row.number,
            "reason": row.reason,
            "id": row.id,
            **({"chunk": row.chunk} if columns.chunked else {}),
            **_asked(row, columns),
        }
        for _, row in part
        if row.reason is not None
    ]
    computed = form.columns([row.vector for row in good])
    dense = computed.get("embedding")
    table = pa.Table.from_batches(gather(good), schema.remove_metadata()).combine_chunks()
    if columns.chunked:
        table = chunk_columns(table, good, columns.text)
    index, last = part[-1]
    facts = PartFacts(
        rows=len(good),
        rejected=len(rejects),
        given=sum(row.given for row in good),
        largest=0.0 if dense is None or not len(dense) else float(np.abs(dense.values.to_numpy()).max()),
        source=index,
        number=last.number,
        position=last.position,
        vectors=len(computed["vectors"].values) if "vectors" in computed else 0,
        texts=sum(row.chunk == 0 for row in good),
        truncated=sum(row.cut for row in good),
        empty=sum(not row.given and row.text is not None and not row.text.strip() for row in good),
    )
    for place, own in enumerate(form.fields(), 1):
        table = table.add_column(place, own, computed[own.name])
    return table, rejects, facts


def _asked(row: Row, columns: Columns) -> dict[str, str | None]:
    """What was asked, under the names of the input's columns."""
    pair = {} if columns.query is None else {columns.query: row.query}
    return {**pair, columns.text: row.text}


class _Part:
    """Finished rows that no commit has yet."""

    def __init__(self, form: Form, progress: Progress) -> None:
        """Begin with no rows."""
        self._form = form
        self.progress = progress
        self._seconds = _FIRST_PART_S
        self._begin()

    def _begin(self) -> None:
        self.rows: list[PlacedRow] = []
        self._size = 0
        self._until = time.monotonic() + self._seconds
        self._seconds = min(2 * self._seconds, _PART_S)

    def add(self, rows: Iterable[PlacedRow]) -> None:
        before = len(self.rows)
        for placed in rows:
            self.rows.append(placed)
            self._size += placed[1].size + self._form.size(placed[1].vector)
        if len(self.rows) > before:
            index, last = self.rows[-1]
            self.progress.finished(index, last.position, len(self.rows) - before)

    @property
    def due(self) -> bool:
        return bool(self.rows) and (self._size > _PART_BYTES or time.monotonic() > self._until) and self.ends > 0

    @property
    def ends(self) -> int:
        """How many rows end where a later run may begin: all but the first chunks of the last text."""
        return next((place for place in range(len(self.rows), 0, -1) if self.rows[place - 1][1].ends), 0)

    def take(self) -> list[PlacedRow]:
        """Those rows; the others wait for the rest of their text."""
        rows, rest = self.rows[: self.ends], self.rows[self.ends :]
        self._begin()
        self.rows = rest
        self._size = sum(row.size + self._form.size(row.vector) for _, row in rest)
        return rows


class _Ahead:
    """Rows that wait for their vectors, and finished ones behind them; it watches how these are computed."""

    def __init__(self, rows: Iterator[PlacedRow], form: Form, unit_length: bool, progress: Progress) -> None:
        """Read from `rows`; another reads on from there."""
        self.exhausted = False
        self.stopped = False
        """Set to end the texts early."""
        self._rows = rows
        self._form = form
        self._unit_length = unit_length
        self._progress = progress
        self._waiting: deque[PlacedRow] = deque()
        self._wanted: deque[Row] = deque()
        self._filled = 0
        self._size = 0
        self._any_vector = False
        self._failures: list[BackendError] = []

    def texts(self) -> Iterator[Any]:
        """What is to be embedded; ends early before rows that are not would fill the memory."""
        while not self.stopped and self._size < _PART_BYTES:
            placed = next(self._rows, None)
            if placed is None:
                self.exhausted = True
                return
            row = placed[1]
            if row.reason is None and row.vector is not None:
                _check_vector(row, self._form.widths["embedding"], self._unit_length)
            row.size += _ROW_BYTES + len(row.text or "") + len(row.query or "")
            self._waiting.append(placed)
            self._progress.read(placed[0], row.position)
            self._size += row.size + self._form.size(row.vector) * row.given
            if row.reason is None and row.vector is None and row.text is not None:
                self._wanted.append(row)
                yield row.asked

    def computed(self, texts: int) -> None:
        """`texts` more have their vectors, in any order."""
        self._progress.computed(texts)

    def cut(self, places: Sequence[int]) -> None:
        """The texts at these places of the stream are longer than the model reads."""
        for place in places:
            self._wanted[place - self._filled].cut = True

    def refuse(self, place: int, error: AkiDBMLXError) -> None:
        """The text at this place of the stream has no vector."""
        # Its place in the stream tells the user nothing, and the text stands beside the reason.
        reason = re.sub(r"\b(?:text|input) \d+\b", "the text", str(error).partition(" (it begins ")[0], count=1)
        self._wanted[place - self._filled].reason = reason
        if isinstance(error, BackendError):
            self._failures.append(error)

    def fill(self, chunk: Any) -> None:
        """The vectors of the next texts."""
        for vector in self._form.rows(chunk):
            row = self._wanted.popleft()
            if row.reason is None:
                row.vector, self._any_vector = vector, True
        self._filled += len(chunk)
        self._progress.handed_over(len(chunk))
        if len(self._failures) >= _HOPELESS and not self._any_vector:
            raise self._failures[-1]

    def done(self) -> Iterator[PlacedRow]:
        """Take out the first rows, up to one that waits for its vector."""
        while self._waiting:
            row = self._waiting[0][1]
            if row.reason is None and row.vector is None:
                return
            self._size -= row.size + self._form.size(row.vector) * row.given
            yield self._waiting.popleft()

    def check_device(self) -> None:
        """At the end of the texts: raise where the device failed on all of them."""
        if self._failures and not self._any_vector:
            raise self._failures[-1]


def _check_vector(row: Row, dimension: int, unit_length: bool) -> None:
    try:
        row.vector = vectors.validate([row.vector], dimension, unit_length=unit_length)[0]
        row.given = True
    except InputError as error:
        row.reason = str(error).replace("row 0", "its vector", 1)
