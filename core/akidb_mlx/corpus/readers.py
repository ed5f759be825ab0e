"""Files → rows, one at a time: a row that cannot be used keeps its reason, and reading goes on."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx.corpus.columns import Columns, csv_rows, open_csv
from akidb_mlx.corpus.sources import Source

__all__ = ["Row", "read_rows"]

_PARQUET_ROWS = 1024


@dataclass(slots=True)
class Row:
    """One row of the corpus on its way."""

    source: str
    number: int
    """From 1: the line of a JSONL file, the record of a CSV or Parquet file."""
    position: int
    """About how many bytes of its file are read with it."""
    id: Any = None
    text: str | None = None
    query: str | None = None
    """The text's partner, where pairs are scored."""
    vector: Any = None
    given: bool = False
    """Whether the vector was in the input."""
    kept: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    """Why it has no place in the output."""
    size: int = 0
    """About how much memory it takes, without a computed vector (bytes)."""

    @property
    def asked(self) -> Any:
        """What the model is asked: the text, or the pair."""
        return self.text if self.query is None else (self.query, self.text)


def read_rows(sources: Sequence[Source], columns: Columns, after: tuple[int, int]) -> Iterator[tuple[int, Row]]:
    """(index of the source, row) in order, beginning after row number `after[1]` of source `after[0]`."""
    for index in range(after[0], len(sources)):
        source = sources[index]
        read = _READERS.get(source.suffix, _read_text)
        try:
            for row in read(source, columns, after[1] if index == after[0] else 0):
                yield index, row
        except (OSError, pa.ArrowException, csv.Error) as error:
            raise OSError(f"{source.name} cannot be read any further: {' '.join(str(error).split())}") from error


# ── one reader a format ──────────────────────────────────────────────────────────────────────────────


def _read_jsonl(source: Source, columns: Columns, skip: int) -> Iterator[Row]:
    position = 0
    with source.path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            position += len(line)
            if number > skip and line.strip():
                row = Row(source.name, number, position)
                try:
                    record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except UnicodeDecodeError as error:
                    _refuse(row, f"not UTF-8: {error.reason} at byte {error.start}", line)
                except (ValueError, RecursionError) as error:
                    _refuse(row, f"no valid JSON: {error}", line)
                else:
                    if isinstance(record, dict):
                        _fill(row, record, columns)
                    else:
                        _refuse(row, "the line is no JSON object", line)
                yield row


def _refuse(row: Row, reason: str, line: bytes) -> None:
    row.reason, row.text = reason, line.decode("utf-8", "replace").rstrip("\n")


def _read_csv(source: Source, columns: Columns, skip: int) -> Iterator[Row]:
    with open_csv(source) as lines:
        reader, raw = csv_rows(lines, source), lines.buffer.raw  # type: ignore[attr-defined]
        header = next(reader, [])
        number = 0
        for values in reader:
            number += 1
            if number <= skip or not values:
                continue
            row = Row(source.name, number, raw.tell())
            if len(values) == len(header):
                _fill(row, dict(zip(header, values, strict=True)), columns)
            else:
                row.reason, row.text = f"{len(values)} fields where the header has {len(header)}", ",".join(values)
            if any(not value.isascii() and _has_surrogates(value) for value in values):
                row.reason = "not UTF-8"
                row.text = row.text and row.text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            yield row


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read_parquet(source: Source, columns: Columns, skip: int) -> Iterator[Row]:
    with pq.ParquetFile(source.path) as file:
        wanted = None
        if columns.keep is not None:
            said = (columns.text, columns.id, columns.embedding, columns.query, *columns.keep)
            wanted = [name for name in file.schema_arrow.names if name in said]
        count = file.metadata.num_rows
        number, groups = 0, list(range(file.num_row_groups))
        while groups and number + file.metadata.row_group(groups[0]).num_rows <= skip:
            number += file.metadata.row_group(groups.pop(0)).num_rows
        for batch in file.iter_batches(_PARQUET_ROWS, groups, wanted):
            names = batch.schema.names
            for place in range(batch.num_rows):
                number += 1
                if number > skip:
                    # Scalars, because Python's own values would lose the column's type.
                    record = {name: batch.column(i)[place] for i, name in enumerate(names)}
                    row = Row(source.name, number, source.size * number // count)
                    for name in {columns.text, columns.id, columns.query} & record.keys():
                        record[name] = record[name].as_py()
                    _fill(row, record, columns)
                    yield row


def _read_text(source: Source, columns: Columns, skip: int) -> Iterator[Row]:
    if skip:
        return
    row = Row(source.name, 1, source.size, id=source.name)
    try:
        content = source.path.read_bytes()
        row.text = content.decode("utf-8-sig")
        row.kept = {columns.text: row.text} if columns.keep is None or columns.text in columns.keep else {}
    except UnicodeDecodeError as error:
        row.reason = f"not UTF-8: {error.reason} at byte {error.start}"
    except OSError as error:  # one of perhaps many files: the others are read
        row.reason = f"cannot be read: {error.strerror}"
    yield row


_READERS: dict[str, Callable[[Source, Columns, int], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def _fill(row: Row, record: Mapping[str, Any], columns: Columns) -> None:
    row.id = f"{row.source}:{row.number}" if columns.id is None else record.get(columns.id)
    row.text = _read_text_of(row, record, columns.text)
    if columns.query is not None:
        row.query = _read_text_of(row, record, columns.query)
    if row.id is None:
        row.reason = f"no id in column {columns.id}"
    elif isinstance(row.id, bool) or not isinstance(row.id, str | int):
        row.reason, row.id = f"the id is a {type(row.id).__name__}, not text or a whole number", str(row.id)
    row.kept = columns.kept(record)
    if taken := columns.taken.intersection(row.kept):
        row.reason = f"the name of column {min(taken)} is the output's own; leave it out with keep"
    if columns.embedding is not None:
        row.vector = _as_vector(record.get(columns.embedding))


def _read_text_of(row: Row, record: Mapping[str, Any], column: str) -> str | None:
    """The text of a column; without it the row is refused."""
    text = record.get(column)
    if isinstance(text, str):
        return text
    row.reason = f"no text in column {column}" if text is None else f"column {column} holds a {_kind(text)}, not text"
    return None


def _kind(value: Any) -> str:
    return type(value).__name__


def _as_vector(value: Any) -> Any:
    """A vector as it stands in Parquet, in JSON, or as JSON in CSV, where nothing means none; checked later."""
    if isinstance(value, pa.Scalar):
        return value.as_py()
    if isinstance(value, str):
        try:
            return json.loads(value) if value else None
        except ValueError:
            return value
    return value
