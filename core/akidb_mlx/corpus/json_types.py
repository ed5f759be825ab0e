"""Values of JSON → the one Arrow type that holds all of them, none rounded; the order they come in does not count."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

__all__ = ["Seen", "fits", "is_valid_text"]

# Whole numbers up to here are doubles too.
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
# What has more fields or levels is a mapping or a tree, and no table's column: it becomes text.
_MOST_FIELDS = 256
_DEEPEST = 32
_NONE = type(None)


class Seen:
    """What the values of one column were so far."""

    __slots__ = ("fields", "high", "is_text", "item", "kinds", "low", "settled")

    def __init__(self) -> None:
        """Nothing was seen."""
        self.kinds: set[type] = {_NONE}
        self.settled: set[type] = {_NONE}
        """Kinds of which another value tells nothing new."""
        self.low, self.high = 0, 0
        self.item: Seen | None = None
        self.fields: dict[str, Seen] = {}
        self.is_text = False

    def add(self, value: Any, depth: int = 0) -> None:
        """Note a value of `json.loads`."""
        kind = type(value)
        self.kinds.add(kind)
        if self.is_text:
            return
        if kind is int:
            if value < self.low:
                self.low = value
            elif value > self.high:
                self.high = value
        elif kind is dict or kind is list:
            if depth >= _DEEPEST:
                self._give_up()
            elif kind is list:
                self._add_items(value, depth)
            else:
                self._add_fields(value, depth)
        else:
            self.settled.add(kind)

    def _add_items(self, values: list[Any], depth: int) -> None:
        if self.item is None:
            self.item = Seen()
        item = self.item
        for value in values:
            if type(value) not in item.settled:
                item.add(value, depth + 1)

    def _add_fields(self, values: Mapping[str, Any], depth: int) -> None:
        fields = self.fields
        for name, value in values.items():
            field = fields.get(name)
            if field is None:
                if len(fields) == _MOST_FIELDS or not is_valid_text(name):
                    self._give_up()
                    return
                field = fields[name] = Seen()
            if type(value) not in field.settled:
                field.add(value, depth + 1)

    def _give_up(self) -> None:
        self.is_text = True
        self.item, self.fields = None, {}
        self.settled |= {int, dict, list}

    def type(self) -> pa.DataType | None:
        """The type of all values, null where there was none; None: they have none in common and become text."""
        kinds = self.kinds - {_NONE}
        if self.is_text:
            return None
        if not kinds:
            return pa.null()
        if kinds == {int}:
            if self.low >= -(2**63) and self.high < 2**63:
                return pa.int64()
            return pa.uint64() if self.low >= 0 and self.high < 2**64 else None
        if kinds == {int, float}:
            return pa.float64() if self._within(_EXACT[pa.float64()]) else None
        if kinds == {dict}:
            types = {name: field.type() for name, field in self.fields.items()}
            # Parquet has no struct without fields.
            return None if not types or None in types.values() else pa.struct(list(types.items()))
        if kinds == {list}:
            item = self.item.type() if self.item else pa.null()
            return None if item is None else pa.list_(item)
        return _SINGLE.get(kinds.pop()) if len(kinds) == 1 else None

    def _within(self, limit: int) -> bool:
        return -limit <= self.low and self.high <= limit


_SINGLE = {str: pa.string(), bool: pa.bool_(), float: pa.float64()}


def fits(seen: Seen, type_: pa.DataType) -> bool:
    """Whether a type that is common to this and other files holds each value as it is."""
    if int in seen.kinds:
        if type_ in _EXACT:
            return seen._within(_EXACT[type_])
        if pa.types.is_decimal(type_):
            return seen._within(10 ** (type_.precision - type_.scale) - 1)
        if pa.types.is_integer(type_):
            bits, signed = type_.bit_width, pa.types.is_signed_integer(type_)
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            return low <= seen.low and seen.high <= high
    if seen.item is not None and hasattr(type_, "value_type"):
        return fits(seen.item, type_.value_type)
    if seen.fields and pa.types.is_struct(type_):
        return all(fits(field, type_.field(name).type) for name, field in seen.fields.items())
    return True


def is_valid_text(text: str) -> bool:
    """Whether there is no lone surrogate in it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
