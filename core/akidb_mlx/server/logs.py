"""Logs as JSON lines on standard error; what was asked and answered is never in them, only sizes and times."""

import contextlib
import copy
import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["CountedLines", "JsonLines", "configure_logging"]

# Equal messages are written once in this many seconds.
_REPEATS_S = 1.0


class JsonLines(logging.Formatter):
    """A record as one line of JSON; `extra={"fields": {…}}` adds keys."""

    def __init__(self, **about: object) -> None:
        """`about` stands in each line."""
        super().__init__()
        self._about = about

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._about,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class CountedLines(logging.StreamHandler[TextIO]):
    """Writes the first of equal warnings and errors within a second, and then how often the same came again."""

    def __init__(self, stream: TextIO) -> None:
        """Nothing was said yet."""
        super().__init__(stream)
        self._repeated: dict[tuple[str, ...], int] = {}

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102
        if record.levelno < logging.WARNING:
            super().emit(record)
            return
        error = record.exc_info[1] if record.exc_info else None
        key = record.name, record.getMessage(), repr(error)
        if key in self._repeated:
            self._repeated[key] += 1
            return
        super().emit(record)
        self._count(key, record)

    def _count(self, key: tuple[str, ...], record: logging.LogRecord) -> None:
        """From now on, for a second."""
        self._repeated[key] = 0
        timer = threading.Timer(_REPEATS_S, self._tell, (key, record))
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread is to be had: then each is written
            del self._repeated[key]

    def _tell(self, key: tuple[str, ...], record: logging.LogRecord) -> None:
        with self.lock or contextlib.nullcontext():
            repeated = self._repeated.pop(key, 0)
            if not repeated:
                return
            again = copy.copy(record)
            again.created, again.exc_info = time.time(), None
            again.fields = {**getattr(record, "fields", {}), "repeated": repeated}
            super().emit(again)
            self._count(key, record)


def configure_logging(**about: object) -> None:
    """Everything that this process logs, in place of what was configured before; `about` stands in each line."""
    handler = CountedLines(sys.stderr)
    handler.setFormatter(JsonLines(**about))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("akidb_mlx").setLevel(logging.INFO)
    logging.captureWarnings(True)
