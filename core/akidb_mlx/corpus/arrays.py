"""Values of the kept columns → Arrow, with types that agree over the whole corpus."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from akidb_mlx.vectors import Embeddings

__all__ = ["as_json", "cast_table", "make_column", "make_scores", "make_vectors", "read_vectors", "unify"]


def make_column(values: Sequence[Any]) -> pa.Array:
    """Values as one type; as text, JSON where they are no text, where they have none in common."""
    # Arrow cannot take nested scalars that are null.
    plain = [None if isinstance(v, pa.ListScalar | pa.StructScalar) and not v.is_valid else v for v in values]
    try:
        array = pa.array(plain)
        if _is_storable(array.type):
            return array
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    return pa.array([_as_text(value) for value in values], pa.string())


def make_vectors(rows: Embeddings) -> pa.Array:
    """(n, dimension) rows as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def make_scores(rows: Embeddings) -> pa.Array:
    """(n, 1) rows as a column of numbers."""
    return pa.array(rows[:, 0])


def read_vectors(column: pa.ChunkedArray) -> Embeddings:
    """A column of fixed-size lists as (n, dimension) rows."""
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.empty((0, width), column.type.value_type.to_pandas_dtype())


def unify(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema that holds every row of all: columns in order of appearance, text where types disagree."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for column in schema:
            known = types.get(column.name, column.type)
            types[column.name] = known if known == column.type else _common(known, column.type)
    return pa.schema([(name, pa.string() if pa.types.is_null(type_) else type_) for name, type_ in types.items()])


def cast_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's columns in a unified schema; null where it has none."""
    columns = []
    for column in schema:
        if column.name not in table.column_names:
            columns.append(pa.nulls(len(table), column.type))
            continue
        values = table[column.name]
        try:
            columns.append(values.cast(column.type))
        except pa.ArrowException:  # what is no text becomes some
            columns.append(pa.array([_as_text(value) for value in values], pa.string()))
    return pa.table(columns, schema=schema)


def as_json(record: dict[str, Any]) -> str:
    """A line of JSON; what JSON does not know (times, bytes) as text."""
    return json.dumps(record, ensure_ascii=False, default=str)


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    try:
        schemas = [pa.schema([("x", a)]), pa.schema([("x", b)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()


def _is_storable(type_: pa.DataType) -> bool:
    """Parquet has no struct without fields."""
    if pa.types.is_struct(type_):
        return type_.num_fields > 0 and all(_is_storable(field.type) for field in type_.fields)
    if pa.types.is_map(type_):
        return _is_storable(type_.item_type)
    return not pa.types.is_nested(type_) or (hasattr(type_, "value_type") and _is_storable(type_.value_type))


def _as_text(value: Any) -> str | None:
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    if value is None:
        return None
    text = value if isinstance(value, str) else as_json(value)
    # Lone surrogates count as U+FFFD, as they do for the tokenizer.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
