"""Types of one column in several files → the one type that holds all, and columns → that type."""

from typing import Any

import pyarrow as pa

from akidb_mlx.corpus.json_types import is_valid_text
from akidb_mlx.corpus.plain import as_text, plain_values

__all__ = ["common_type", "fit", "holds", "id_type", "make_array", "stored_type"]

_TEXTS = (pa.string(), pa.large_string(), pa.string_view())


def common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Arrow's permissive common type, or None; categories and what is not one are taken by their values."""
    if a == b:
        return a
    if pa.types.is_dictionary(a) != pa.types.is_dictionary(b) and pa.null() not in (a, b):
        return common_type(_values(a), _values(b))
    if a in _TEXTS and b in _TEXTS:
        return pa.large_string()
    try:
        schemas = [pa.schema([("x", a)]), pa.schema([("x", b)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _values(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def stored_type(type_: pa.DataType) -> pa.DataType:
    """The type with what a file cannot keep replaced: what is null everywhere is text, categories may be many."""
    if pa.types.is_null(type_):
        return pa.string()
    if pa.types.is_struct(type_):
        return pa.struct([_stored_field(field) for field in type_.fields])
    if pa.types.is_list(type_):
        return pa.list_(_stored_field(type_.value_field))
    if pa.types.is_dictionary(type_):  # parts may have other categories each
        return pa.dictionary(pa.int32(), type_.value_type, type_.ordered)
    return type_


def _stored_field(field: pa.Field) -> pa.Field:
    return field.with_type(stored_type(field.type))


def id_type(type_: pa.DataType) -> pa.DataType:
    """What an id column of this type is in the output; null: its values are no ids."""
    type_ = _values(type_)
    if pa.types.is_integer(type_):
        return pa.uint64() if type_ == pa.uint64() else pa.int64()
    return pa.string() if type_ in _TEXTS else pa.null()


def holds(type_: pa.DataType, column: pa.Array) -> bool:
    """Whether each value of a column is in this type what it was."""
    try:
        return bool(column.cast(type_).cast(column.type).equals(column))
    except pa.ArrowException:
        return False


def fit(column: pa.Array | pa.ChunkedArray, type_: pa.DataType) -> Any:
    """A column in the type that was settled for it."""
    if column.type == type_:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), type_)
    if type_ == pa.string() and _values(column.type) not in _TEXTS:
        return pa.array([as_text(value) for value in plain_values(column)], type_)
    return column.cast(type_)


def make_array(values: list[Any], type_: pa.DataType) -> pa.Array:
    """Values of JSON or CSV in the type that was settled for them.

    Raises:
        pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError: they do not fit: a file changed.
    """
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:
        return pa.array([_valid(value) for value in values], type_)
    except pa.ArrowException:
        if type_ not in _TEXTS:
            raise
    return pa.array([as_text(value) for value in values], type_)


def _valid(value: Any) -> Any:
    """Lone surrogates count as U+FFFD, as they do for the tokenizer."""
    if isinstance(value, str):
        return value if is_valid_text(value) else as_text(value)
    if isinstance(value, dict):
        return {name: _valid(item) for name, item in value.items()}
    return [_valid(item) for item in value] if isinstance(value, list) else value
