"""Ids and kept columns of rows → batches of the settled schema, where they wait for their vectors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from akidb_mlx.corpus.columns import Columns
from akidb_mlx.corpus.json_types import values_of
from akidb_mlx.corpus.merging import fit, id_type, make_array
from akidb_mlx.corpus.row import Row
from akidb_mlx.corpus.schema import ambiguous_ids

__all__ = ["Kept", "gather"]

# Rows whose kept columns become Arrow's together; fewer where they are long.
_ROWS, _BYTES = 128, 2**20
_MISFITS = (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError)


class Kept:
    """What fills rows' `batch` and `place`."""

    def __init__(self, schema: pa.Schema, columns: Columns) -> None:
        """`schema`: what `settle_schema` gave."""
        self.columns = columns
        self._schema = schema.remove_metadata()
        self._ambiguous = ambiguous_ids(schema)

    def fill_records(self, rows: Iterable[tuple[Row, Mapping[str, Any] | None]]) -> Iterator[Row]:
        """The rows of records, some at a time."""
        waiting: list[tuple[Row, Mapping[str, Any]]] = []
        told: list[Row] = []
        size = 0
        for row, record in rows:
            told.append(row)
            size += row.size
            if row.reason is None and record is not None:
                waiting.append((row, record))
            if len(told) == _ROWS or size > _BYTES:
                self._fill(waiting)
                yield from told
                waiting, told, size = [], [], 0
        self._fill(waiting)
        yield from told

    def _fill(self, rows: Sequence[tuple[Row, Mapping[str, Any]]]) -> None:
        if not rows:
            return
        try:
            arrays = [make_array([row.id for row, _ in rows], self._schema.field("id").type)]
            records = [record for _, record in rows]
            for name, column in zip(self._schema.names[1:], list(self._schema)[1:], strict=True):
                arrays.append(make_array(values_of(records, name), column.type))
        except _MISFITS as error:
            if len(rows) == 1:
                rows[0][0].reason = f"its columns have not the types they had when the run began: {error}"
                return
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                self._fill(half)
            return
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        for place, (row, _) in enumerate(rows):
            row.batch, row.place = batch, place

    def of_batch(self, batch: pa.RecordBatch, ids: list[str] | None) -> pa.RecordBatch:
        """A Parquet batch's; `ids` where it has none."""
        given: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
        if ids is not None:
            given["id"] = pa.array(ids, pa.string())
        elif self.columns.id is not None:
            column = given[self.columns.id]
            given["id"] = pa.nulls(len(batch)) if pa.types.is_null(id_type(column.type)) else column
        arrays = [fit(given.get(column.name, pa.nulls(len(batch))), column.type) for column in self._schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def check_id(self, row: Row) -> None:
        """Refuse a text id that is a number elsewhere in the file."""
        if self._ambiguous and isinstance(row.id, str) and row.id in self._ambiguous.get(row.source, ()):
            row.reason = f'the id "{row.id}" is text, and the number {row.id} is another id; as text they would be one'


def gather(rows: Sequence[Row]) -> list[pa.RecordBatch]:
    """Ids and kept columns of rows that have a batch, in order."""
    gathered = []
    for _, group in groupby(rows, key=lambda row: id(row.batch)):
        of_batch = list(group)
        batch, places = of_batch[0].batch, [row.place for row in of_batch]
        assert batch is not None
        if places == list(range(places[0], places[0] + len(places))):
            gathered.append(batch.slice(places[0], len(places)))
        else:
            gathered.append(batch.take(pa.array(places)))
    return gathered
