"""Arrow's columns → Python's values, and those → JSON by RFC 8259: nothing that a column may hold fails."""

import datetime
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

__all__ = ["as_json", "as_text", "plain_values"]

_MICROSECONDS_END = len("2026-01-02 03:04:05.000006")


def plain_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column's values; times that Python has no object for (parts of a microsecond, years over 9999) are text.

    The same with and without pandas, which pyarrow would otherwise ask for nanoseconds.
    """
    type_ = _replaced(column.type, _in_microseconds)
    try:
        if type_ != column.type:
            column = column.cast(type_)
        values: list[Any] = column.to_pylist()
        return values
    except (pa.ArrowException, ValueError, OverflowError):
        return [_plain(scalar) for scalar in column]


def as_json(record: Any) -> str:
    """A line of JSON; what JSON does not know is text (times, bytes) or null (NaN, infinity)."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, default=str)


def as_text(value: Any) -> str | None:
    """A value of a column that became text: a text as it is, else JSON. Lone surrogates count as U+FFFD."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value
    elif isinstance(value, float) and not math.isfinite(value):
        text = str(value)
    else:
        text = as_json(value)
        text = json.loads(text) if text.startswith('"') else text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _replaced(type_: pa.DataType, replace: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with its innermost types replaced."""
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_replaced(field.type, replace)) for field in type_.fields])
    if pa.types.is_map(type_):
        return pa.map_(_replaced(type_.key_type, replace), _replaced(type_.item_type, replace))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_replaced(type_.value_type, replace), type_.list_size)
    for is_list, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_list(type_):
            return make(_replaced(type_.value_type, replace))
    return replace(type_)


def _in_microseconds(type_: pa.DataType) -> pa.DataType:
    if getattr(type_, "unit", None) != "ns":
        return type_
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", type_.tz)
    return pa.time64("us") if pa.types.is_time(type_) else pa.duration("us")


def _plain(scalar: pa.Scalar) -> Any:
    """A scalar's value, times by the numbers they are kept as."""
    if not scalar.is_valid:
        return None
    type_ = scalar.type
    if isinstance(scalar, pa.ExtensionScalar | pa.DictionaryScalar):
        return _plain(scalar.value)
    if isinstance(scalar, pa.StructScalar):
        return {name: _plain(scalar[place]) for place, name in enumerate(field.name for field in type_.fields)}
    if isinstance(scalar, pa.MapScalar):
        return [(_plain(item[0]), _plain(item[1])) for item in scalar.values]
    if isinstance(scalar, pa.ListScalar):
        return [_plain(item) for item in scalar.values]
    if isinstance(scalar, pa.TimestampScalar | pa.Time64Scalar | pa.DurationScalar):
        return _time(scalar)
    return scalar.as_py()


def _time(scalar: Any) -> Any:
    """As Python's object, or as text with nine digits behind the second."""
    type_ = _in_microseconds(scalar.type) if scalar.type.unit == "ns" else scalar.type
    count, nanos = divmod(scalar.value, 1000) if scalar.type.unit == "ns" else (scalar.value, 0)
    try:
        value = pa.scalar(count, type_).as_py()
    except (OverflowError, ValueError):
        return str(scalar.cast(pa.string()).as_py())
    if not nanos:
        return value
    if isinstance(value, datetime.timedelta):
        return f"{value - datetime.timedelta(microseconds=value.microseconds)}.{value.microseconds:06}{nanos:03}"
    if isinstance(value, datetime.time):
        return f"{value.isoformat('microseconds')}{nanos:03}"
    text = value.isoformat(" ", "microseconds")
    return f"{text[:_MICROSECONDS_END]}{nanos:03}{text[_MICROSECONDS_END:]}"
