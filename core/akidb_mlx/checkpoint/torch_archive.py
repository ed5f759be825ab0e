"""The zip that torch.save writes: which entries it has and where their bytes lie. Nothing is unpacked. No MLX here.

Read by hand, for torch stores its entries as they are: their bytes can be mapped, and every number of the archive is
compared with the file's size before it is used.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Archive", "Entry", "NotTensorsError", "TornError", "open_archive"]

_LOCAL, _CENTRAL, _END, _END64, _LOCATOR64 = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"
_MOST_COMMENT = 0xFFFF
# Bounds of what is kept in memory. A shard has a few hundred entries, of less than a hundred bytes each.
_MOST_ENTRIES = 200_000
_MOST_DIRECTORY = 32 << 20
_LONGEST_NAME = 255
_ZIP64 = 0xFFFFFFFF  # "the number is in the extra field"


class TornError(ValueError):
    """The file is not what torch.save writes."""


class NotTensorsError(ValueError):
    """The file is whole, but holds something else than plain tensors."""


class Entry(NamedTuple):
    """Where the bytes of one entry lie in the file."""

    start: int
    size: int


class Archive(NamedTuple):
    """A mapped file and its entries, by their names within the archive's one folder."""

    data: NDArray[np.uint8]
    entries: dict[str, Entry]

    def bytes_of(self, name: str, most: int) -> bytes:
        """An entry's bytes; TornError where it is missing or has more than `most`."""
        if name not in self.entries:
            raise TornError(f"it has no {name}")
        start, size = self.entries[name]
        if size > most:
            raise TornError(f"its {name} has {size} bytes; at most {most} are read")
        return self.data[start : start + size].tobytes()


def open_archive(file: Path) -> Archive:
    """Map a file and list its entries.

    Raises:
        TornError: no zip, a torn one, encrypted entries, entries that overlap or lie in another folder.
        NotTensorsError: compressed entries.
        OSError: the file cannot be opened.
    """
    if not file.stat().st_size:
        raise TornError("it is empty")
    data = np.memmap(file, np.uint8, "r").view(np.ndarray)
    try:
        start, size, count = _find_directory(data)
        named = _read_directory(data[start : start + size].tobytes(), count)
        entries = {name: _locate(data, name, entry, start) for name, entry in named.items()}
    except (struct.error, UnicodeDecodeError) as error:
        raise TornError(f"its directory is torn ({error})") from None
    _refuse_overlap(entries)
    folders = {name.split("/", 1)[0] for name in entries}
    if len(folders) != 1 or not all("/" in name for name in entries):
        raise TornError("its entries are not in one folder")
    return Archive(data, {name.split("/", 1)[1]: entry for name, entry in entries.items()})


def _find_directory(data: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Offset, bytes and number of entries of the central directory, which end at the file's end."""
    first = max(0, len(data) - _MOST_COMMENT - 22)
    tail = data[first:].tobytes()
    at = tail.rfind(_END)
    if at < 0:
        raise TornError("it is cut short: it has no directory at its end")
    count, size, start = struct.unpack_from("<10xHII2x", tail, at)
    end = first + at
    if end >= 20 and data[end - 20 : end - 16].tobytes() == _LOCATOR64:
        (where,) = struct.unpack("<8xQ4x", data[end - 20 : end].tobytes())
        if where > end - 76:
            raise TornError("its directory is torn")
        record = data[where : where + 56].tobytes()
        if record[:4] != _END64:
            raise TornError("its directory is torn")
        count, size, start = struct.unpack("<32xQQQ", record)
        end = where
    if start + size > end:
        raise TornError("its directory is torn")
    if count > _MOST_ENTRIES or size > _MOST_DIRECTORY:
        raise TornError(f"its directory lists {count} entries in {size} bytes, more than any checkpoint has")
    return start, size, count


def _read_directory(directory: bytes, count: int) -> dict[str, Entry]:
    """Name → (offset of its local header, bytes)."""
    entries: dict[str, Entry] = {}
    at = 0
    for _ in range(count):
        magic, flags, method, packed, size, *lengths, where = struct.unpack_from("<4s4xHH8xIIHHH8xI", directory, at)
        if magic != _CENTRAL:
            raise TornError("its directory is torn")
        end_name = at + 46 + lengths[0]
        name = directory[at + 46 : end_name].decode()
        extra = directory[end_name : end_name + lengths[1]]
        at += 46 + sum(lengths)
        if at > len(directory):
            raise TornError("its directory is torn")
        size, packed, where = _with_zip64(extra, size, packed, where)
        _check_entry(name, flags, method, size, packed)
        if name in entries:
            raise TornError(f"its directory lists {name} twice")
        entries[name] = Entry(where, size)
    return entries


def _check_entry(name: str, flags: int, method: int, size: int, packed: int) -> None:
    if len(name) > _LONGEST_NAME or not name.isprintable() or "\\" in name or {"", ".", ".."} & set(name.split("/")):
        raise TornError(f"its directory has an entry called {name[:80]!a}")
    if method or size != packed:
        raise NotTensorsError(f"has a compressed entry, {name}")
    if flags & 1:
        raise TornError(f"{name} is encrypted")


def _with_zip64(extra: bytes, *numbers: int) -> list[int]:
    """The numbers, those that 32 bits do not hold from the extra field."""
    wide: list[int] = []
    at = 0
    while at + 4 <= len(extra) and not wide:
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            length = min(length, len(extra) - at - 4)
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
        at += 4 + length
    found = [wide.pop(0) if number == _ZIP64 and wide else number for number in numbers]
    return found


def _locate(data: NDArray[np.uint8], name: str, entry: Entry, directory: int) -> Entry:
    """Where an entry's bytes begin: behind its local header, whose name must be the same."""
    where, size = entry
    if where + 30 > directory:
        raise TornError(f"{name} lies beyond its end")
    magic, name_length, extra_length = struct.unpack("<4s22xHH", data[where : where + 30].tobytes())
    start = where + 30 + name_length + extra_length
    if magic != _LOCAL or data[where + 30 : where + 30 + name_length].tobytes() != name.encode():
        raise TornError(f"{name} is not where its directory says")
    if start + size > directory:
        raise TornError(f"{name} lies beyond its end")
    return Entry(start, size)


def _refuse_overlap(entries: dict[str, Entry]) -> None:
    end, before = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: item[1]):
        if entry.start < end:
            raise TornError(f"{before} and {name} share bytes")
        end, before = entry.start + entry.size, name
