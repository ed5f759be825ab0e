"""Files → rows, one at a time: a row that cannot be used keeps its reason, and reading goes on."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx.corpus.columns import Columns
from akidb_mlx.corpus.delimited import open_delimited, read_delimited
from akidb_mlx.corpus.json_lines import read_records
from akidb_mlx.corpus.json_types import is_valid_text
from akidb_mlx.corpus.kept import Kept
from akidb_mlx.corpus.plain import plain_values
from akidb_mlx.corpus.row import Row
from akidb_mlx.corpus.sources import Source

__all__ = ["read_rows"]

_PARQUET_ROWS = 1024


def read_rows(
    sources: Sequence[Source], columns: Columns, schema: pa.Schema, after: tuple[int, int]
) -> Iterator[tuple[int, Row]]:
    """(index of the source, row) in order, beginning after row number `after[1]` of source `after[0]`.

    `schema`: what `settle_schema` gave.
    """
    kept = Kept(schema, columns)
    for index in range(after[0], len(sources)):
        source = sources[index]
        read = _READERS.get(source.suffix, _read_text)
        try:
            for row in read(source, kept, after[1] if index == after[0] else 0):
                yield index, row
        except (OSError, pa.ArrowException, csv.Error) as error:
            raise OSError(f"{source.name} cannot be read any further: {' '.join(str(error).split())}") from error


# ── one reader a format ──────────────────────────────────────────────────────────────────────────────


def _read_jsonl(source: Source, kept: Kept, skip: int) -> Iterator[Row]:
    return kept.fill_records(_jsonl_rows(source, kept, skip))


def _jsonl_rows(source: Source, kept: Kept, skip: int) -> Iterator[tuple[Row, Mapping[str, Any] | None]]:
    for number, position, line, record, reason in read_records(source, skip):
        row = Row(source.name, number, position, size=len(line))
        if reason is not None:
            row.reason, row.text = reason, line.decode("utf-8", "replace").rstrip("\n")
            yield row, None
        else:
            _fill(row, record, kept)
            yield row, record


def _read_delimited(source: Source, kept: Kept, skip: int) -> Iterator[Row]:
    return kept.fill_records(_delimited_rows(source, kept, skip))


def _delimited_rows(source: Source, kept: Kept, skip: int) -> Iterator[tuple[Row, Mapping[str, Any] | None]]:
    with open_delimited(source) as lines:
        records, raw = read_delimited(lines, source), lines.buffer.raw  # type: ignore[attr-defined]
        head = next(records, None)
        header = [] if head is None else head.fields
        for number, (fields, reason, text) in enumerate(records, 1):
            if number <= skip or not (fields or reason):
                continue
            row = Row(source.name, number, raw.tell(), reason=reason, text=text, size=sum(map(len, fields)))
            record = None
            if len(fields) == len(header):
                record = dict(zip(header, fields, strict=True))
                _fill(row, record, kept)
            elif reason is None:
                row.reason, row.text = f"{len(fields)} fields where the header has {len(header)}", ",".join(fields)
            if not all(map(is_valid_text, fields)) or not is_valid_text(row.text or ""):
                row.reason = row.reason if reason else "not UTF-8"
                row.text = row.text and row.text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            yield row, record


def _read_parquet(source: Source, kept: Kept, skip: int) -> Iterator[Row]:
    columns = kept.columns
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
            if number + len(batch) > skip:
                places = range(max(0, skip - number), len(batch))
                yield from _parquet_rows(source, kept, batch, places, number + 1, count)
            number += len(batch)


def _parquet_rows(
    source: Source, kept: Kept, batch: pa.RecordBatch, places: range, first: int, count: int
) -> Iterator[Row]:
    columns = kept.columns
    names = {name for name in (columns.text, columns.id, columns.query) if name is not None}
    values = {name: plain_values(batch.column(name)) for name in names}
    if columns.embedding is not None:
        values[columns.embedding] = list(batch.column(columns.embedding))
    ids = [f"{source.name}:{first + place}" for place in range(len(batch))] if columns.id is None else None
    filled = kept.of_batch(batch, ids)
    size = batch.nbytes // max(1, len(batch))
    for place in places:
        number = first + place
        row = Row(source.name, number, source.size * number // count, batch=filled, place=place, size=size)
        _fill(row, {name: column[place] for name, column in values.items()}, kept)
        yield row


def _read_text(source: Source, kept: Kept, skip: int) -> Iterator[Row]:
    return kept.fill_records(_text_rows(source, kept) if not skip else ())


def _text_rows(source: Source, kept: Kept) -> Iterator[tuple[Row, Mapping[str, Any] | None]]:
    row = Row(source.name, 1, source.size, id=source.name, size=source.size)
    try:
        row.text = source.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row.reason = f"not UTF-8: {error.reason} at byte {error.start}"
    except OSError as error:  # one of perhaps many files: the others are read
        row.reason = f"cannot be read: {error.strerror}"
    yield row, {kept.columns.text: row.text}


_READERS: dict[str, Callable[[Source, Kept, int], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".parquet": _read_parquet,
}


def _fill(row: Row, record: Mapping[str, Any], kept: Kept) -> None:
    columns = kept.columns
    row.id = f"{row.source}:{row.number}" if columns.id is None else record.get(columns.id)
    row.text = _read_text_of(row, record, columns.text)
    if columns.query is not None:
        row.query = _read_text_of(row, record, columns.query)
    if row.id is None:
        row.reason = f"no id in column {columns.id}"
    elif type(row.id) not in (int, str):
        row.reason, row.id = f"the id is a {type(row.id).__name__}, not text or a whole number", str(row.id)
    else:
        kept.check_id(row)
    if (name := columns.clash(record)) is not None:
        row.reason = f"the name of column {name} is the output's own; leave it out with keep"
    if columns.embedding is not None:
        row.vector = _as_vector(record.get(columns.embedding))


def _read_text_of(row: Row, record: Mapping[str, Any], column: str) -> str | None:
    """The text of a column; without it the row is refused."""
    text = record.get(column)
    if isinstance(text, str):
        return text
    row.reason = (
        f"no text in column {column}" if text is None else f"column {column} holds a {type(text).__name__}, not text"
    )
    return None


def _as_vector(value: Any) -> Any:
    """A vector as it stands in Parquet, in JSON, or as JSON in CSV, where nothing means none; checked later."""
    if isinstance(value, pa.Scalar):
        if not value.is_valid:
            return None
        if isinstance(value, pa.ListScalar) and not value.values.null_count and _is_number(value.values.type):
            return value.values.to_numpy(zero_copy_only=False)
        return value.as_py()
    if isinstance(value, str):
        try:
            return json.loads(value) if value else None
        except ValueError:
            return value
    return value


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_))
