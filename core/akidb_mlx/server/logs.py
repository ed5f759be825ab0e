"""Logs as JSON lines on standard error; what was asked and answered is never in them, only sizes and times."""

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["JsonLines", "configure_logging"]


class JsonLines(logging.Formatter):
    """A record as one line of JSON; `extra={"fields": {…}}` adds keys."""

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging() -> None:
    """Everything that this process logs, in place of what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("akidb_mlx").setLevel(logging.INFO)
    logging.captureWarnings(True)
