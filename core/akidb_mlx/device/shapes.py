"""The padded shapes, rows × length, that batches have on a device."""

from dataclasses import dataclass

__all__ = ["Shapes", "padded_length"]

# Round up to the next allowed number of rows only where the batch fills at least this share of it; else round down.
_WORTH_PADDING = 0.75


@dataclass(frozen=True)
class Shapes:
    """The shapes that batches are padded to on a device: the fewer, the more often its kernels' plans serve again."""

    length_steps: int = 8
    """Lengths between two powers of two."""
    length_multiple: int = 1
    """All lengths are multiples of it, but for a model's own limit."""
    full_tokens: int | None = None
    """Numbers of rows that fill `tokens`, a half, a quarter, a sixteenth … of them are allowed; None for any number."""
    small_tokens: int = 0
    """Padded tokens that take hardly longer than one: up to them lengths are powers of two."""

    def length(self, length: int, limit: int | None = None) -> int:
        """What a batch whose longest row has `length` tokens is padded to; `limit` is the model's own."""
        padded = padded_length(length, None, self.length_steps)
        padded = -(-padded // self.length_multiple) * self.length_multiple
        return padded if limit is None else max(length, min(padded, limit))

    def rows(self, count: int, length: int, waiting: int, most: int, start: float = 0.0) -> tuple[int, int]:
        """How many rows a batch takes, and how many it is padded to.

        Args:
            count: rows that are worth a batch of this length.
            length: padded tokens of each.
            waiting: rows that wait in all.
            most: rows of this length that the budget holds.
            start: tokens that take as long as starting another batch does.
        """
        if self.full_tokens is None:
            return count, count
        allowed = _allowed_rows(max(1, self.full_tokens // length))
        up = min((rows for rows in allowed if rows >= count), default=None)
        down = max((rows for rows in allowed if rows <= count), default=1)
        if up is not None and up <= most:
            small = up * length <= self.small_tokens or (up - count) * length <= start
            if count >= _WORTH_PADDING * up or (count == waiting and small):
                return count, up
        return down, down

    def small(self, rows: int, length: int, limit: int | None = None) -> int:
        """The length of a batch so small that a longer one takes hardly more time."""
        if rows * length > self.small_tokens:
            return length
        longer = max(2 * self.length_multiple, padded_length(length, None, 1))
        return longer if limit is None else max(length, min(longer, limit))


def _allowed_rows(most: int) -> list[int]:
    """A power of two up to `most`, a half of it, a quarter, a sixteenth … and one."""
    full = 1 << (most.bit_length() - 1)
    return [full, *([full // 2] if full > 1 else []), *(full >> shift for shift in range(2, full.bit_length(), 2)), 1]


def padded_length(length: int, limit: int | None = None, steps: int = 8) -> int:
    """Round a length up so that few shapes occur: at most `steps` of them between two powers of two.

    Padding stays under `1 / steps` of the length (lengths up to `steps` are kept exact), and never goes
    past `limit`, the model's own.
    """
    step = max(1, (1 << (max(length, 1) - 1).bit_length()) // (2 * steps))
    padded = -(-length // step) * step
    return padded if limit is None else max(length, min(padded, limit))
