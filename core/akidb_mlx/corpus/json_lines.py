"""A JSON Lines file → its records, or why a line is none."""

import json
from collections.abc import Iterator
from json.scanner import make_scanner
from typing import Any

from akidb_mlx.corpus.json_types import is_valid_text
from akidb_mlx.corpus.sources import Source

__all__ = ["LINES", "read_records"]

LINES = (".jsonl", ".ndjson")
_scan: Any = make_scanner(json.JSONDecoder())  # type: ignore[arg-type]


def _value(text: str) -> Any:
    """`json.loads`, but quicker for a line of an ordinary file."""
    if text.startswith("{"):
        try:
            value, end = _scan(text, 0)
            if text[end:] in ("\n", "\r\n", ""):
                return value
        except StopIteration:  # as loads says it
            pass
    return json.loads(text)


def read_records(source: Source, skip: int = 0) -> Iterator[tuple[int, int, bytes, Any, str | None]]:
    """(number of the line, bytes up to its end, the line, its value, or the reason why it has none); no blank lines."""
    position = 0
    with source.path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            position += len(line)
            if number > skip and not line.isspace():
                value, reason = None, None
                try:
                    value = _value(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                    if not isinstance(value, dict):
                        reason = "the line is no JSON object"
                    elif b"\\u" in line and not all(map(is_valid_text, value)):
                        reason = "the name of a column holds a lone surrogate"
                except UnicodeDecodeError as error:
                    reason = f"not UTF-8: {error.reason} at byte {error.start}"
                except (ValueError, RecursionError) as error:
                    reason = f"no valid JSON: {error}"
                yield number, position, line, value, reason
