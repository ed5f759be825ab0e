"""What a pass gave beside what was asked for: kept for whoever asks for it next, within bounds.

A model with several heads computes all of them in one pass. Qdrant's hybrid mode asks for the dense vectors of some
texts and then for the sparse ones of the same texts: the second call finds them here.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from akidb_mlx.model.encoding import Encoding, RowKey

__all__ = ["Companions", "JointRow"]

JointRow = Mapping[str, Any]
"""Head → its row of one text."""
# Some ten thousand texts' dense and sparse rows; a few hundred texts' where there is a vector per token.
_MOST_BYTES = 128 << 20


class Companions:
    """Rows of texts by head, the oldest given up first. Each is given away once."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        """Keep at most this many bytes of numbers."""
        self.most_bytes = most_bytes
        self.bytes = 0
        self._rows: OrderedDict[RowKey, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, encoding: Encoding, row: JointRow, wanted: Collection[str]) -> None:
        """Keep of a text's row what is not `wanted` by those who asked for it."""
        left = {head: numbers for head, numbers in row.items() if head not in wanted}
        if not left:
            return
        with self._lock:
            held = self._rows.pop(encoding.key, {})
            self.bytes -= sum(map(_bytes, held.values()))
            held |= left
            self._rows[encoding.key] = held
            self.bytes += sum(map(_bytes, held.values()))
            while self.bytes > self.most_bytes:
                _, oldest = self._rows.popitem(last=False)
                self.bytes -= sum(map(_bytes, oldest.values()))

    def take(self, encodings: Sequence[Encoding], wanted: Collection[str]) -> dict[int, JointRow]:
        """Place → row of the texts for which all of `wanted` is here; they are given away."""
        found: dict[int, JointRow] = {}
        with self._lock:
            if not self._rows:
                return found
            taken: dict[RowKey, JointRow] = {}  # equal texts of one request get the same
            for place, encoding in enumerate(encodings):
                key = encoding.key
                held = self._rows.get(key, {})
                if key not in taken and all(head in held for head in wanted):
                    taken[key] = {head: held.pop(head) for head in wanted}
                    self.bytes -= sum(map(_bytes, taken[key].values()))
                    if not held:
                        del self._rows[key]
                if key in taken:
                    found[place] = taken[key]
        return found

    def forget(self) -> None:
        """Keep nothing; in a forked child, where a thread of its parent's may have held the lock."""
        self._lock = threading.Lock()
        self._rows.clear()
        self.bytes = 0


def _bytes(row: Any) -> int:
    parts = row if isinstance(row, tuple) else (row,)
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
