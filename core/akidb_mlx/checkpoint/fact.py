"""A fact of a checkpoint and where it was said. No MLX here."""

from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

__all__ = ["Fact", "sources_of", "value_of"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
D = TypeVar("D")


@dataclass(frozen=True)
class Fact(Generic[T_co]):
    """What was said, and by which file (relative to the checkpoint's folder) or table; None where nobody said it."""

    value: T_co
    source: str


def value_of(fact: Fact[T] | None, unsaid: D) -> T | D:
    """A fact's value; `unsaid` where nobody said it."""
    return unsaid if fact is None else fact.value


def sources_of(*said: Any) -> dict[str, str]:
    """Name → source of each fact among the fields of these dataclasses."""
    facts = {field.name: getattr(each, field.name) for each in said for field in fields(each)}
    return {name: fact.source for name, fact in facts.items() if isinstance(fact, Fact)}
