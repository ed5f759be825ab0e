"""How long batches take on this device: measured while they run."""

__all__ = ["SpeedMeter"]

# Clip outliers: a batch that takes this many times as long as expected was stalled by something else.
_MOST_SURPRISE = 3.0
_BATCHES_TO_KNOW = 6


class SpeedMeter:
    """Seconds that a batch takes, as `overhead + per_token × padded tokens`.

    Least squares over past batches, each weighing `decay` times the next: it follows a device that slows down.
    """

    def __init__(self, decay: float = 0.9) -> None:
        """Know nothing yet."""
        self._decay = decay
        self._batches = 0
        # Of weights, tokens, seconds, tokens², tokens × seconds; plain numbers, for they are read for each batch.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self.start_s = 0.0
        """What it takes to hand a batch to a GPU, seconds of this process, while the GPU computes others."""

    def add(self, tokens: int, seconds: float) -> None:
        """Learn from one batch. A stall, which is no measure of the device, counts as a few times the usual."""
        if self._batches >= _BATCHES_TO_KNOW:
            seconds = min(seconds, _MOST_SURPRISE * self.seconds(tokens))
        self._batches += 1
        new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        a, b, c, d, e = (self._decay * x + y for x, y in zip(self._sums, new, strict=True))
        self._sums = a, b, c, d, e

    def started(self, seconds: float) -> None:
        """Learn from one batch that was handed to a GPU."""
        self.start_s = seconds if not self.start_s else self._decay * self.start_s + (1 - self._decay) * seconds

    def line(self) -> tuple[float, float] | None:
        """(overhead in seconds, seconds a token), or None before the first batch."""
        weight, tokens, seconds, squares, products = self._sums
        if weight == 0:
            return None
        spread = weight * squares - tokens * tokens
        mean_tokens, mean_seconds = tokens / weight, seconds / weight
        # Batches of one size tell nothing about the overhead: then all of it counts as the tokens' cost.
        slope = (weight * products - tokens * seconds) / spread if spread > 0.01 * tokens * tokens else 0.0
        if not 0 < slope <= mean_seconds / mean_tokens:
            return 0.0, mean_seconds / mean_tokens
        return mean_seconds - slope * mean_tokens, slope

    def seconds(self, tokens: int) -> float:
        """What a batch should take; 0 while nothing is known."""
        line = self.line()
        return 0.0 if line is None else line[0] + line[1] * tokens

    def tokens_within(self, seconds: float) -> int | None:
        """Padded tokens that a batch may have to end within `seconds`; None while nothing is known.

        At least as many as take the overhead's time again, or the device would do little else than start batches.
        """
        line = self.line()
        if line is None:
            return None
        overhead, per_token = line
        return max(1, int(max(seconds - overhead, overhead) / per_token))
