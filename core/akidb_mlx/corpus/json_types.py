"""Values of JSON → the one Arrow type that holds all of them, none rounded; the order they come in does not count."""

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import pyarrow as pa

__all__ = ["Seen", "fits", "is_valid_text", "new_names", "values_of"]

# Whole numbers up to here are doubles too.
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
# What has more fields or levels is a mapping or a tree, and no table's column: it becomes text.
_MOST_FIELDS = 256
_DEEPEST = 32
_NONE = type(None)


class Seen:
    """What the values of one column were so far."""

    _settled = frozenset({_NONE, str, bool, float})
    """Kinds of which another value tells nothing new."""
    __slots__ = ("fields", "high", "is_text", "item", "kinds", "low")

    def __init__(self) -> None:
        """Nothing was seen."""
        self.kinds: set[type] = {_NONE}
        self.low, self.high = 0, 0
        self.item: Seen | None = None
        self.fields: dict[str, Seen] = {}
        self.is_text = False

    def add(self, values: Sequence[Any], depth: int = 0) -> None:
        """Note values of `json.loads`; many at a time are quicker."""
        kinds = set(map(type, values))
        self.kinds |= kinds
        if self.is_text or kinds <= self._settled:
            return
        if int in kinds:
            numbers = [value for value in values if type(value) is int]
            self.low, self.high = min(self.low, *numbers), max(self.high, *numbers)
        if (dict in kinds or list in kinds) and depth == _DEEPEST:
            self._give_up()
            return
        if list in kinds:
            self.item = self.item or Seen()
            self.item.add(list(chain.from_iterable(value for value in values if type(value) is list)), depth + 1)
        if dict in kinds:
            self._add_fields([value for value in values if type(value) is dict], depth)

    def _add_fields(self, records: Sequence[Mapping[str, Any]], depth: int) -> None:
        for name in new_names(records, self.fields):
            if len(self.fields) == _MOST_FIELDS or not is_valid_text(name):
                self._give_up()
                return
            self.fields[name] = Seen()
        for name, field in self.fields.items():
            field.add(values_of(records, name), depth + 1)

    def _give_up(self) -> None:
        self.is_text = True
        self.item, self.fields = None, {}

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


def new_names(records: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> list[str]:
    """Keys of the records that are not known, in order of appearance."""
    if known.keys() >= set().union(*records):
        return []
    return [name for name in dict.fromkeys(chain.from_iterable(records)) if name not in known]


def values_of(records: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """What the records have under a name; None where one has nothing."""
    try:
        return list(map(itemgetter(name), records))
    except KeyError:
        return [record.get(name) for record in records]


def is_valid_text(text: str) -> bool:
    """Whether there is no lone surrogate in it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
