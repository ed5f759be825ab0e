"""The padded shapes, rows × length, that batches have on a device."""

from dataclasses import dataclass

__all__ = ["Shapes", "padded_length"]


@dataclass(frozen=True)
class Shapes:
    """The shapes that batches are padded to on a device: the fewer, the more often kernels and memory serve again."""

    length_steps: int = 8
    """Lengths between two powers of two."""
    length_multiple: int = 1
    """All lengths are multiples of it, but for a model's own limit."""
    row_steps: int | None = None
    """Numbers of rows between two powers of two; None for any number."""
    free_tokens: int = 0
    """Padded tokens that take no longer than one: up to them shapes are powers of two."""

    def length(self, length: int, limit: int | None = None) -> int:
        """What a batch whose longest row has so many tokens is padded to; `limit` is the model's own."""
        padded = padded_length(length, None, self.length_steps)
        padded = -(-padded // self.length_multiple) * self.length_multiple
        return padded if limit is None else max(length, min(padded, limit))

    def take(self, count: int, waiting: int, most: int) -> int:
        """How many rows to take of `waiting`, where `count` are worth it and the budget holds `most`."""
        if count == waiting and self.rows(count) <= most:
            return count
        step = 1 if self.row_steps is None else padded_step(count, self.row_steps)
        return count // step * step

    def rows(self, count: int) -> int:
        """What so many rows are padded to."""
        return count if self.row_steps is None else padded_length(count, None, self.row_steps)

    def free(self, rows: int, length: int, limit: int | None = None) -> tuple[int, int]:
        """(rows, length) where the batch is so small that a larger one would take no longer."""
        if rows * length > self.free_tokens:
            return rows, length
        larger = max(self.length_multiple, padded_length(length, None, 1))
        return padded_length(rows, None, 1), larger if limit is None else max(length, min(larger, limit))


def padded_step(length: int, steps: int) -> int:
    """The distance of the padded lengths around a length."""
    return max(1, (1 << (max(length, 1) - 1).bit_length()) // (2 * steps))


def padded_length(length: int, limit: int | None = None, steps: int = 8) -> int:
    """Round a length up so that few shapes occur: at most `steps` of them between two powers of two.

    Padding stays under `1 / steps` of the length (lengths up to `steps` are kept exact), and never goes
    past `limit`, the model's own.
    """
    step = padded_step(length, steps)
    padded = -(-length // step) * step
    return padded if limit is None else max(length, min(padded, limit))
