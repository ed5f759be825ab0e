"""What type checkers know of fields that are given in one type and read in another."""

from typing import Any, Generic, TypeVar

__all__ = ["Argument"]

Given = TypeVar("Given", contravariant=True)
Read = TypeVar("Read", covariant=True)


class Argument(Generic[Given, Read]):
    """A field's type for type checkers alone; at run time pydantic makes the one of the other."""

    def __get__(self, instance: object, owner: Any) -> Read:
        raise NotImplementedError

    def __set__(self, instance: object, value: Given) -> None:
        raise NotImplementedError
