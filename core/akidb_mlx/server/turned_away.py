"""When those who are refused for the moment are told to come again."""

import math
import time

__all__ = ["TurnedAway"]

# However long the queue is, between these seconds: some clients give up above two minutes, others sleep as told.
_LEAST_LATEST_S, _LATEST_S = 40.0, 59.0
_GOLDEN = (math.sqrt(5) - 1) / 2


class TurnedAway:
    """Callers of one server who were told to come again and have not had the time to."""

    def __init__(self) -> None:
        """Nobody was."""
        self._count = 0
        self._until = 0.0

    def seconds(self, expected: float) -> float:
        """What the next one is told: `expected` for the first, for the others spread from there to its double.

        Each is far from those told just before (multiples of the golden section), so that they do not come together.
        """
        now = time.monotonic()
        if now >= self._until:
            self._count = 0
        first = min(max(expected, 0.001), _LEAST_LATEST_S)
        last = min(2 * max(first, 0.5), _LATEST_S)
        wait = first + (self._count * _GOLDEN) % 1.0 * (last - first)
        self._count += 1
        self._until = max(self._until, now + wait)
        return wait

    def headers(self, expected: float) -> dict[str, str]:
        """The same: in whole seconds for everybody, in milliseconds for OpenAI's clients."""
        wait = self.seconds(expected)
        return {"Retry-After": str(math.ceil(wait)), "Retry-After-Ms": str(max(1, round(wait * 1000)))}
