"""What the engine passes on: requests of callers, rows for the device, and which of them make a batch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from akidb_mlx.errors import AkiDBMLXError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.host_rows import Rows

__all__ = ["BatchPlan", "Request", "Row"]


@dataclass(slots=True, eq=False)
class Request:
    """Some texts (or pairs) of one caller; `future` receives their rows in order."""

    encodings: Sequence[Encoding]
    urgent: bool
    arrived: float
    first_index: int = 0
    """The first text's place in what the user gave; errors name that."""
    errors: dict[int, AkiDBMLXError] | None = None
    """Why texts have no row, by place in what the user gave; None: one bad text fails the request."""
    query: bool = False
    """Whether it takes the queries' room in the queue."""
    wants: Collection[str] = ()
    """The heads whose rows are asked for, where the model has several."""
    known: Mapping[int, Any] = field(default_factory=dict)
    """Rows that are there already, by place among the texts."""
    computed: Callable[[int], None] | None = None
    """Told how many texts more have their row, or a reason why not."""
    future: "Future[Rows]" = field(default_factory=Future)
    waiting_tokens: int = 0
    """Tokens of the texts that are not answered yet."""
    next_index: int = 0
    """First text not yet cut into a batch."""
    missing: int = 0
    """Texts whose rows are still to come."""
    rows: Rows | None = None

    def __post_init__(self) -> None:
        """Count once."""
        self.missing = len(self.encodings)
        if self.known:
            rows = np.full(len(self.known), None, object)
            rows[:] = list(self.known.values())
            self.fill(list(self.known), rows)
        self.waiting_tokens = sum(len(row) for index, row in enumerate(self.encodings) if index not in self.known)
        self.missing = sum(not self.settled(index) for index in range(len(self.encodings)))

    def fill(self, indices: Sequence[int], values: Rows) -> bool:
        """Put rows in their places; True with the last of them. The caller holds a lock."""
        if self.rows is None:
            self.rows = np.empty((len(self.encodings), *values.shape[1:]), values.dtype)
            self.rows.fill(None if values.dtype == object else np.nan)
        self.rows[indices] = values
        self.missing -= len(indices)
        return not self.missing

    def settled(self, index: int) -> bool:
        """Whether this text is not to be computed: it is refused, or its row is there."""
        return index in self.known or (self.errors is not None and self.first_index + index in self.errors)


@dataclass(slots=True, eq=False)
class Row:
    """One row on the device and everybody who asked for it."""

    encoding: Encoding
    owners: list[tuple[Request, int]]
    length: int = 0
    """Its tokens."""

    def __post_init__(self) -> None:
        """Count once: rows are sorted by it, time after time."""
        self.length = len(self.encoding)

    def __len__(self) -> int:
        """Its tokens."""
        return self.length


@dataclass(slots=True, eq=False)
class BatchPlan:
    """Rows that are computed together, padded to `length`."""

    rows: list[Row]
    length: int
    urgent: bool
    padded_rows: int = 0
    """How many rows the device computes, at least those."""

    def __post_init__(self) -> None:
        """No more rows than there are, unless said."""
        self.padded_rows = max(self.padded_rows, len(self.rows))

    @property
    def padded_tokens(self) -> int:
        """What the device computes."""
        return self.padded_rows * self.length

    def part(self, rows: list[Row]) -> "BatchPlan":
        """Some of its rows as a batch of their own."""
        return BatchPlan(rows, max(map(len, rows)), self.urgent)

    def halves(self) -> "tuple[BatchPlan, BatchPlan]":
        """Two batches of half the rows."""
        middle = len(self.rows) // 2
        return self.part(self.rows[:middle]), self.part(self.rows[middle:])
