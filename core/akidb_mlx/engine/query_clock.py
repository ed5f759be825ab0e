"""When each model of the process was last asked a query: what computes beside queries stays short, whoever asks."""

import math

__all__ = ["QueryClock"]


class QueryClock:
    """The last query of each model. The caller holds a lock around every method."""

    def __init__(self) -> None:
        """No query yet."""
        self._last: dict[int, float] = {}

    def note(self, owner: int, when: float) -> None:
        """The model known as `owner` was asked."""
        self._last[owner] = when

    def last(self, *, but: int | None = None) -> float:
        """When any model was asked last, leaving `but` out; minus infinity where none was."""
        return max((when for owner, when in self._last.items() if owner != but), default=-math.inf)

    def forget(self, owner: int) -> None:
        """The model is closed."""
        self._last.pop(owner, None)
