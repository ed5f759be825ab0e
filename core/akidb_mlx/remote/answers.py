"""What a server's answer says that is no result: the error that the local classes raise for the same reason."""

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from akidb_mlx import errors, wire
from akidb_mlx.errors import (
    AkiDBMLXError,
    BackendError,
    ClosedError,
    ConfigError,
    InputError,
    ModelNotFoundError,
    QueueFullError,
    UnsupportedModelError,
)

__all__ = ["error_of", "named_error"]

# Where no class is named: by the code of the error, else by the status.
_CODES: Final[Mapping[str, type[AkiDBMLXError]]] = {
    "model_not_found": ModelNotFoundError,
    "wrong_kind": UnsupportedModelError,
    "invalid_api_key": ConfigError,
    "other_fingerprint": ConfigError,
    "rate_limit_exceeded": QueueFullError,
    "shutting_down": ClosedError,
}
_STATUSES: Final[Mapping[int, type[AkiDBMLXError]]] = {
    400: InputError,
    401: ConfigError,
    403: ConfigError,
    404: ConfigError,
    405: ConfigError,
    413: InputError,
    422: InputError,
    429: QueueFullError,
}
_LATER = frozenset({429, 503})


def error_of(status: int, headers: Mapping[str, str], body: bytes, base_url: str) -> AkiDBMLXError:
    """The error of an answer that is not 200, in the server's words."""
    said = _said(body)
    if said is None:
        start = body[:80].decode("utf-8", "replace").strip()
        words = f"what answers at {base_url} is no akidb-mlx server: HTTP {status} {start!r}"
        kind: type[AkiDBMLXError] = BackendError if status >= 500 or status == 429 else ConfigError
        return named_error(kind.__name__, words, _retry_after(headers) if status in _LATER else None)
    words = str(said.get("message"))
    name = headers.get(wire.ERROR) or _CODES.get(str(said.get("code")), _STATUSES.get(status, BackendError)).__name__
    if status == 401:
        words += "; give it as api_key=, or in the variable AKIDB_API_KEY"
    return named_error(name, words, _retry_after(headers) if status in _LATER else None)


def named_error(name: str, words: str, retry_after_s: float | None) -> AkiDBMLXError:
    """An error by the name of its class; of a class that this version has not, a BackendError."""
    kind = getattr(errors, name, None) if name in errors.__all__ else None
    if kind is QueueFullError:
        return QueueFullError(words, 1.0 if retry_after_s is None else retry_after_s)
    if kind is None or kind is BackendError:
        return BackendError(words, retry_after_s)
    error: AkiDBMLXError = kind(words)
    return error


def _said(body: bytes) -> Mapping[str, Any] | None:
    """The error in OpenAI's shape, if it is one."""
    with contextlib.suppress(ValueError):
        said: Any = json.loads(body)
        if isinstance(said, dict) and isinstance(said.get("error"), dict) and "message" in said["error"]:
            error: Mapping[str, Any] = said["error"]
            return error
    return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; RFC 9110 has them whole or as a date, our server in milliseconds too."""
    with contextlib.suppress(ValueError):
        if said := headers.get("Retry-After-Ms"):
            return max(0.0, float(said) / 1000)
        if said := headers.get("Retry-After"):
            if said.replace(".", "", 1).isdecimal():
                return float(said)
            return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    return None
