"""Which columns of the inputs' tables mean what, checked against every table's head before anything is loaded."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx.corpus.sources import Source
from akidb_mlx.errors import InputError

__all__ = ["Columns", "csv_rows", "open_csv", "settle_columns"]

_JSONL = (".jsonl", ".ndjson")
# A quote that is never closed makes the rest of a CSV file one field; a longer one is taken for that.
_FIELD_CHARACTERS = 2**24


@dataclass(frozen=True)
class Columns:
    """Which columns of the inputs' tables mean what."""

    text: str
    id: str | None
    """None: a row's id is FILE:NUMBER."""
    embedding: str | None
    """Where rows may have their vector already."""
    keep: tuple[str, ...] | None
    """Columns that go into the output; None: all."""
    query: str | None = None
    """Where a row is a pair that is scored: the text's partner. None: the text is embedded."""

    @property
    def computed(self) -> str:
        """The output's column of what is computed."""
        return "embedding" if self.query is None else "score"

    @property
    def taken(self) -> set[str]:
        """The output's own columns."""
        return {"id", self.computed}

    def kept(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record's columns that go into the output beside id and embedding."""
        names = record if self.keep is None else self.keep
        return {name: record.get(name) for name in names if name not in (self.id, self.embedding)}


def settle_columns(
    sources: Sequence[Source],
    text: str,
    id_: str | None,
    embedding: str | None,
    keep: Sequence[str] | None,
    query: str | None = None,
) -> Columns:
    """Check the names against each table's head. Without `id_`, a column `id` is it where every table has one.

    Raises:
        InputError: a table cannot be read, lacks a column, or has one whose name the output needs.
    """
    tables = [(source, _read_head(source)) for source in sources if source.is_table]
    heads = [(source, head) for source, head in tables if head is not None]
    if id_ is None and heads and all("id" in head for _, head in heads):
        id_ = "id"
    columns = Columns(text, id_, embedding, None if keep is None else tuple(name for name in keep if name), query)
    for source in sources:
        if query is not None and not source.is_table:
            raise InputError(
                f"{source.name} has no columns, but a pair is the columns {query!r} and {text!r} of a table"
            )
    for source, head in heads:
        _check_head(source, head, columns)
    names = {name for _, head in heads for name in head} | {text}
    # Later rows of a JSONL file may have what its first one lacks.
    if columns.keep and not any(source.suffix in _JSONL for source, _ in heads):
        for name in columns.keep:
            if name not in names:
                raise InputError(f"no column {name!r} to keep; there are: {', '.join(sorted(names))}")
    return columns


def _check_head(source: Source, head: Sequence[str], columns: Columns) -> None:
    needed = {"text": columns.text, "id": columns.id, "query": columns.query}
    if source.suffix not in _JSONL:
        needed["embedding"] = columns.embedding
    for meaning, name in needed.items():
        if name is not None and name not in head:
            has = ", ".join(head) or "none"
            raise InputError(f"{source.name} has no column {name!r} (it has {has}); say which is the {meaning} column")
    for name in columns.taken.intersection(columns.kept(dict.fromkeys(head))):
        told = "" if name == "score" else f"say that it is the {name} column, or "
        raise InputError(
            f"{source.name} has a column {name!r}, a name that the output needs: {told}list the columns to keep "
            "without it"
        )


def _read_head(source: Source) -> Sequence[str] | None:
    """Names of a table's columns (of the first record's of a JSONL file), or None where it is empty."""
    try:
        if source.suffix == ".parquet":
            return list(pq.read_schema(source.path).names)
        if source.suffix in (".csv", ".tsv"):
            with open_csv(source) as lines:
                head = next(csv_rows(lines, source), None)
            if head is not None and len(set(head)) < len(head):
                raise InputError(f"{source.name} has two columns of one name: {', '.join(head)}")
            return head
        with source.path.open("rb") as records:
            return next(_heads(records), None)
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise InputError(f"cannot read {source.name}: {' '.join(str(error).split())}") from None


def _heads(lines: BinaryIO) -> Iterator[Sequence[str]]:
    for line in lines:
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except ValueError:  # told when its turn comes
            continue
        if isinstance(record, dict):
            yield list(record)


def open_csv(source: Source) -> TextIO:
    """A CSV or TSV file; bytes that are not UTF-8 become lone surrogates."""
    return source.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def csv_rows(lines: TextIO, source: Source) -> Iterator[list[str]]:
    """Its rows, the header first."""
    csv.field_size_limit(_FIELD_CHARACTERS)
    return csv.reader(lines, delimiter="\t" if source.suffix == ".tsv" else ",")
