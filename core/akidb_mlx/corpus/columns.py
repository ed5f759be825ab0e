"""Which columns of the inputs' tables mean what, checked against every table's head before anything is loaded."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx.corpus.delimited import DELIMITED, read_head
from akidb_mlx.corpus.forms import COMPUTED
from akidb_mlx.corpus.json_lines import LINES, read_records
from akidb_mlx.corpus.sources import Source
from akidb_mlx.errors import InputError

__all__ = ["Columns", "settle_columns"]


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
    kind: str = "dense"
    """What the encoder gives; of pairs "reranker"."""
    chunked: bool = False
    """Whether texts are split, so that the output says which chunk a row is."""

    @property
    def computed(self) -> tuple[str, ...]:
        """The output's columns of what is computed."""
        return COMPUTED[self.kind]

    @property
    def taken(self) -> set[str]:
        """The output's own columns."""
        return {"id", *self.computed, *(("chunk",) if self.chunked else ())}

    def is_kept(self, name: str) -> bool:
        """Whether a column of the input goes into the output under its name."""
        return name not in (self.id, self.embedding, *self.taken) and (self.keep is None or name in self.keep)

    def clash(self, names: Mapping[str, Any] | Sequence[str]) -> str | None:
        """A column of these that would be kept, but has the name of one of the output's own."""
        for name in self._own:
            if name in names:
                return name
        return None

    @cached_property
    def _own(self) -> tuple[str, ...]:
        wanted = [name for name in sorted(self.taken) if name not in (self.id, self.embedding)]
        return tuple(name for name in wanted if self.keep is None or name in self.keep)

    def is_usable(self, record: Mapping[str, Any]) -> bool:
        """Whether a record may have a place in the output, as far as its columns tell."""
        return (
            isinstance(record.get(self.text), str)
            and (self.query is None or isinstance(record.get(self.query), str))
            and (self.id is None or type(record.get(self.id)) in (int, str))
            and self.clash(record) is None
        )


def settle_columns(
    sources: Sequence[Source],
    text: str,
    id_: str | None,
    embedding: str | None,
    keep: Sequence[str] | None,
    query: str | None = None,
    kind: str = "dense",
    chunked: bool = False,
) -> Columns:
    """Check the names against each table's head. Without `id_`, a column `id` is it where every table has one.

    Raises:
        InputError: a table cannot be read, lacks a column, or has one whose name the output needs.
    """
    tables = [(source, _read_head(source)) for source in sources if source.is_table]
    heads = [(source, head) for source, head in tables if head is not None]
    if id_ is None and heads and all("id" in head for _, head in heads):
        id_ = "id"
    kept = None if keep is None else tuple(name for name in keep if name)
    columns = Columns(text, id_, embedding, kept, query, kind, chunked)
    for source in sources:
        if query is not None and not source.is_table:
            raise InputError(
                f"{source.name} has no columns, but a pair is the columns {query!r} and {text!r} of a table"
            )
    for source, head in heads:
        _check_head(source, head, columns)
    names = {name for _, head in heads for name in head} | {text}
    # Later rows of a JSONL file may have what its first one lacks.
    if columns.keep and not any(source.suffix in LINES for source, _ in heads):
        for name in columns.keep:
            if name not in names:
                raise InputError(f"no column {name!r} to keep; there are: {', '.join(sorted(names))}")
    return columns


def _check_head(source: Source, head: Sequence[str], columns: Columns) -> None:
    needed = {"text": columns.text, "id": columns.id, "query": columns.query}
    if source.suffix not in LINES:
        needed["embedding"] = columns.embedding
    for meaning, name in needed.items():
        if name is not None and name not in head:
            has = ", ".join(head) or "none"
            raise InputError(f"{source.name} has no column {name!r} (it has {has}); say which is the {meaning} column")
    if len(set(head)) < len(head):
        raise InputError(f"{source.name} has two columns of one name: {', '.join(head)}")
    if name := columns.clash(head):
        told = "" if name not in ("id", "embedding") else f"say that it is the {name} column, or "
        raise InputError(
            f"{source.name} has a column {name!r}, a name that the output needs: {told}list the columns to keep "
            "without it"
        )


def _read_head(source: Source) -> Sequence[str] | None:
    """Names of a table's columns (of the first record's of a JSONL file), or None where it is empty."""
    try:
        if source.suffix == ".parquet":
            return list(pq.read_schema(source.path).names)
        if source.suffix in DELIMITED:
            return read_head(source)
        # What is no record is told when its turn comes.
        return next((list(record) for *_, record, reason in read_records(source) if reason is None), None)
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise InputError(f"cannot read {source.name}: {' '.join(str(error).split())}") from None
