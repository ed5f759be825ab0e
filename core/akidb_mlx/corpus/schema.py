"""The output's columns and their types, settled from the inputs before anything is embedded.

Parquet says its types; JSON Lines are read once for them; CSV and TSV have only text. The types of one column become
Arrow's permissive common type where that holds every value as it is, else text.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx.corpus.columns import Columns
from akidb_mlx.corpus.delimited import read_head
from akidb_mlx.corpus.json_lines import LINES, read_records
from akidb_mlx.corpus.json_types import Seen, fits, new_names, values_of
from akidb_mlx.corpus.merging import common_type, holds, id_type, stored_type
from akidb_mlx.corpus.sources import Source

__all__ = ["AMBIGUOUS_IDS", "Table", "ambiguous_ids", "settle_schema"]

AMBIGUOUS_IDS = b"ambiguous_ids"
_ROWS, _RECORDS = 65536, 64
_EXTENSION = b"ARROW:extension:"
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Table:
    """What has Arrow's types already: a Parquet file, or a part that an earlier release began."""

    schema: pa.Schema
    read: Callable[[str], Iterator[pa.Array]]
    """A column by name, a batch at a time."""


@dataclass
class _Column:
    given: list[tuple[pa.DataType, Callable[[], Iterator[pa.Array]]]] = field(default_factory=list)
    """Types that files state, and how to read the column there."""
    lines: Seen | None = None
    """What JSON Lines hold."""
    metadata: list[dict[bytes, bytes]] = field(default_factory=list)


def settle_schema(sources: Sequence[Source], columns: Columns, parts: Sequence[Table] = ()) -> pa.Schema:
    """`id` and the kept columns, in order of appearance or as `keep` says, each in the type that holds all its values.

    The metadata holds the ids that stand as a number and as text in one file (see `ambiguous_ids`).
    """
    found = {name: _Column() for name in ("id", *filter(columns.is_kept, columns.keep or ()))}
    ambiguous: dict[str, list[str]] = {}
    for source in sources:
        if source.suffix in LINES:
            if ids := _note_lines(found, source, columns):
                ambiguous[source.name] = ids
        elif source.suffix == ".parquet":
            _note_table(found, _parquet(source), columns)
        else:
            _note_texts(found, source, columns)
    for part in parts:
        for column in part.schema:
            if column.name not in columns.computed:
                _note(found, column, part, column.name)
    fields = [_settled(name, column) for name, column in found.items()]
    return _storable(fields).with_metadata({AMBIGUOUS_IDS: json.dumps(ambiguous)})


def ambiguous_ids(schema: pa.Schema) -> dict[str, frozenset[str]]:
    """For each file: the ids that stand there as a number and as text, and would be one."""
    found = json.loads((schema.metadata or {}).get(AMBIGUOUS_IDS, b"{}"))
    return {name: frozenset(ids) for name, ids in found.items()}


# ── one way for each format ──────────────────────────────────────────────────────────────────────────


def _parquet(source: Source) -> Table:
    def read(name: str) -> Iterator[pa.Array]:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(_ROWS, columns=[name]):
                yield batch.column(0)

    return Table(pq.read_schema(source.path), read)


def _note_table(found: dict[str, _Column], table: Table, columns: Columns) -> None:
    if columns.id is None:
        found["id"].given.append((pa.string(), lambda: iter(())))
    else:
        of_ids = pa.field("id", id_type(table.schema.field(columns.id).type))
        _note(found, of_ids, table, columns.id)
    for column in table.schema:
        if columns.is_kept(column.name):
            _note(found, column, table, column.name)


def _note(found: dict[str, _Column], given: pa.Field, table: Table, name: str) -> None:
    column = found.setdefault(given.name, _Column())
    column.given.append((given.type, lambda: table.read(name)))
    metadata = given.metadata or {}
    column.metadata.append({key: value for key, value in metadata.items() if key.startswith(_EXTENSION)})


def _note_texts(found: dict[str, _Column], source: Source, columns: Columns) -> None:
    names = [columns.text] if not source.is_table else read_head(source) or []
    for name in ("id", *filter(columns.is_kept, names)):
        found.setdefault(name, _Column()).given.append((pa.string(), lambda: iter(())))


def _note_lines(found: dict[str, _Column], source: Source, columns: Columns) -> list[str]:
    """Look at each record that can be used; give the ids that are a number and text in this file."""
    known: dict[str, Seen | None] = {}
    texts = False
    usable = (record for *_, record, reason in read_records(source) if reason is None and columns.is_usable(record))
    while records := list(islice(usable, _RECORDS)):
        known |= {name: _seen_of(found, name, columns) for name in new_names(records, known)}
        for name, seen in known.items():
            if seen is not None:
                seen.add(values_of(records, name))
        if columns.id is not None:
            ids = values_of(records, columns.id)
            texts = texts or any(type(id_) is str and _WHOLE.fullmatch(id_) is not None for id_ in ids)
    if columns.id is None:
        found["id"].given.append((pa.string(), lambda: iter(())))
        return []
    lines = found["id"].lines
    return _in_both_forms(source, columns) if texts and lines is not None and int in lines.kinds else []


def _seen_of(found: dict[str, _Column], name: str, columns: Columns) -> Seen | None:
    if name == columns.id:
        name = "id"
    elif not columns.is_kept(name):
        return None
    column = found.setdefault(name, _Column())
    column.lines = column.lines or Seen()
    return column.lines


def _in_both_forms(source: Source, columns: Columns) -> list[str]:
    numbers, texts = set(), set()
    for *_, record, reason in read_records(source):
        if reason is None and columns.is_usable(record):
            id_ = record[columns.id]
            if type(id_) is int:
                numbers.add(str(id_))
            elif _WHOLE.fullmatch(id_):
                texts.add(id_)
    return sorted(numbers & texts)


# ── what was found → one type ────────────────────────────────────────────────────────────────────────


def _settled(name: str, column: _Column) -> pa.Field:
    same = column.metadata and all(metadata == column.metadata[0] for metadata in column.metadata)
    metadata: Mapping[bytes, bytes] | None = column.metadata[0] if same and column.lines is None else None
    type_ = _common(column)
    if type_ is None:
        return pa.field(name, pa.string())
    return pa.field(name, stored_type(type_), metadata=metadata or None)


def _common(column: _Column) -> pa.DataType | None:
    """The type that holds all values, or None."""
    of_lines = column.lines.type() if column.lines is not None else pa.null()
    if of_lines is None:
        return None
    common = of_lines
    for type_, _ in column.given:
        merged = common_type(common, type_)
        if merged is None:
            return None
        common = merged
    if column.lines is not None and not fits(column.lines, common):
        return None
    for type_, read in column.given:
        if type_ not in (common, pa.null()) and not all(holds(common, values) for values in read()):
            return None
    return common


def _storable(fields: list[pa.Field]) -> pa.Schema:
    """The fields as a schema, those as text that Parquet cannot hold."""
    for place, column in enumerate(fields):
        try:
            schema = pa.schema([column])
            pq.write_table(pa.table([pa.nulls(1, column.type)], schema=schema), io.BytesIO())
        except (pa.ArrowException, NotImplementedError):
            fields[place] = pa.field(column.name, pa.string())
    return pa.schema(fields)
