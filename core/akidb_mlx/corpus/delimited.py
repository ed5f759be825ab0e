"""CSV and TSV files → their records; a quotation mark that is not closed properly never swallows the rows behind it.

In CSV such a mark is a fault of its line. In TSV, where most writers quote nothing, it is a character of the text.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from akidb_mlx.corpus.sources import Source

__all__ = ["DELIMITED", "Record", "open_delimited", "read_delimited", "read_head"]

DELIMITED = (".csv", ".tsv")
# A longer field ends the run: a file with such a one is no table.
_FIELD_CHARACTERS = 2**24
_QUOTED = re.compile(r'"[^"]*"')


class Record(NamedTuple):
    """A record's fields (none: a blank line), or why its lines have none."""

    fields: list[str]
    reason: str | None = None
    raw: str = ""
    """The lines, where there is a reason."""


def open_delimited(source: Source) -> TextIO:
    """The file's text; bytes that are not UTF-8 become lone surrogates."""
    return source.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def read_delimited(stream: TextIO, source: Source) -> Iterator[Record]:
    """The file's records, its header first.

    Raises:
        csv.Error: a field is too long, or the header is broken.
    """
    lines = _Lines(stream)
    return _read_tsv(lines) if source.suffix == ".tsv" else _read_csv(lines)


def read_head(source: Source) -> list[str] | None:
    """Names of the columns; None where the file is empty."""
    with open_delimited(source) as stream:
        head = next(read_delimited(stream, source), None)
    return None if head is None else head.fields


class _Lines:
    """Physical lines; those of the record at hand can be given back, but for the first."""

    def __init__(self, stream: TextIO) -> None:
        """Read from the beginning."""
        self.number = 1
        """Of the first line of the record at hand."""
        self.taken: list[str] = []
        self._again: deque[str] = deque()
        self._stream = stream

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._stream)
        self.taken.append(line)
        return line

    def first(self) -> str:
        """The first line, which stays to be read."""
        line = next(self, "")
        self.give_back(0)
        return line

    def next_record(self) -> None:
        """The lines taken so far are done with."""
        self.number += len(self.taken)
        self.taken.clear()

    def give_back(self, keep: int = 1) -> None:
        """Read the lines behind the first `keep` again."""
        self._again.extendleft(reversed(self.taken[keep:]))
        del self.taken[keep:]


def _read_csv(lines: _Lines) -> Iterator[Record]:
    csv.field_size_limit(_FIELD_CHARACTERS)
    reader, width = csv.reader(lines, delimiter=_delimiter(lines.first()), strict=True), 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            count = len(lines.taken)
            if not width or (count == 1 and "limit" in str(error)):
                raise csv.Error(f"{error}, line {lines.number}") from None
            yield _broken(lines, count, width)
        else:
            width = width or len(fields)
            yield Record(fields)
        lines.next_record()


def _delimiter(header: str) -> str:
    """Spreadsheets write semicolons where the comma is in numbers: a header that has these alone is cut at them."""
    names = _QUOTED.sub("", header)
    return ";" if ";" in names and "," not in names else ","


def _broken(lines: _Lines, count: int, width: int) -> Record:
    """A record whose quotation mark is closed nowhere, or not at the end of its field."""
    if count == 1:
        reason = f"line {lines.number}: text behind a closing quotation mark, or none that closes"
    else:
        reason = f"line {lines.number}: a quotation mark opens a field that is not closed properly"
    # Behind the line the file may be in order; where a line is a record, nothing would tell pieces of one from others.
    if width > 1:
        lines.give_back()
    return Record([], reason, "".join(lines.taken).rstrip("\r\n"))


def _read_tsv(lines: _Lines) -> Iterator[Record]:
    width = 0
    for line in lines:
        fields = _cut(line).split("\t") if '"' not in line else _quoted_fields(line, lines)
        if width > 1 and len(lines.taken) > 1 and all(_is_record(taken, width) for taken in lines.taken):
            last = lines.number + len(lines.taken) - 1
            reason = f"lines {lines.number} to {last}: a quotation mark at either end; one field, or a record per line?"
            for taken in lines.taken:
                yield Record([], reason, _cut(taken))
        else:
            width = width or len(fields)
            yield Record([] if fields == [""] else fields)
        lines.next_record()


def _is_record(line: str, width: int) -> bool:
    return line.count("\t") == width - 1 and not line.startswith("\t")


def _cut(line: str) -> str:
    return line.rstrip("\r\n")


def _quoted_fields(line: str, lines: _Lines) -> list[str]:
    """The fields of the line; a mark at the beginning of a field quotes it if the next single one ends the field."""
    fields, text, place = [], _cut(line), 0
    while True:
        closed = _closed(text, place, lines) if text.startswith('"', place) else None
        if closed is None:
            end = text.find("\t", place)
            end = len(text) if end < 0 else end
            fields.append(text[place:end])
        else:
            field, text, end = closed
            fields.append(field)
        if end == len(text):
            return fields
        place = end + 1


def _closed(text: str, place: int, lines: _Lines) -> tuple[str, str, int] | None:
    """What stands between the marks, the line in which they close, and the place behind them; None: they do not."""
    pieces: list[str] = []
    given, size, start = len(lines.taken), 0, place + 1
    ending = lines.taken[-1][len(text) :]
    while True:
        end = _lone_mark(text, start)
        if end >= 0:
            if end + 1 == len(text) or text[end + 1] == "\t":
                return "".join([*pieces, text[start:end]]).replace('""', '"'), text, end + 1
            break
        pieces.append(text[start:] + ending)
        size += len(pieces[-1])
        line = next(lines, None) if size < _FIELD_CHARACTERS else None
        if line is None:
            break
        text, start = _cut(line), 0
        ending = line[len(text) :]
    lines.give_back(given)
    return None


def _lone_mark(text: str, start: int) -> int:
    """Where the next mark is that no other follows; -1: nowhere."""
    while (place := text.find('"', start)) >= 0:
        if not text.startswith('"', place + 1):
            return place
        start = place + 2
    return -1
