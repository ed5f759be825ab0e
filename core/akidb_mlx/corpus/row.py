"""One row of a corpus on its way from a file to a part."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

__all__ = ["Row"]


@dataclass(slots=True)
class Row:
    """One row of the corpus on its way."""

    source: str
    number: int
    """From 1: the line of a JSONL file, the record of a CSV or Parquet file."""
    position: int
    """About how many bytes of its file are read with it."""
    id: Any = None
    text: str | None = None
    query: str | None = None
    """The text's partner, where pairs are scored."""
    vector: Any = None
    given: bool = False
    """Whether the vector was in the input."""
    batch: pa.RecordBatch | None = None
    """Its id and kept columns are here,"""
    place: int = 0
    """in this row."""
    reason: str | None = None
    """Why it has no place in the output."""
    chunk: int | None = None
    """Where texts are split: which of the text's chunks it is, from 0."""
    ends: bool = True
    """Whether a later run may begin behind it: it is no chunk, or the last one of its text."""
    cut: bool = False
    """Whether the model read only a part of its text."""
    size: int = 0
    """About how much memory it takes, without a computed vector (bytes)."""

    @property
    def asked(self) -> Any:
        """What the model is asked: the text, or the pair."""
        return self.text if self.query is None else (self.query, self.text)
