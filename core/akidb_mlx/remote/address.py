"""Where a server listens, and what it is asked with."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Final
from urllib.parse import unquote, urlsplit

from akidb_mlx.errors import ConfigError

__all__ = ["API_KEY_VARIABLE", "DEFAULT_URL", "Address"]

API_KEY_VARIABLE: Final = "AKIDB_API_KEY"
DEFAULT_URL: Final = "http://127.0.0.1:8000"
"""Where `akidb-mlx serve` listens, unless it is told."""
_FORMS = '"http://HOST:PORT", "https://…" or a Unix socket, "unix:///PATH"'
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Address:
    """A server. Equal ones share their connections."""

    base_url: str
    """`http://HOST:PORT`, `https://…`, `unix:///PATH` or `http+unix://` with the path percent-encoded."""
    api_key: str | None = field(default=None, repr=False)
    """None takes the variable AKIDB_API_KEY, if there is one, whenever a connection is made."""
    timeout_s: float = 600.0
    """Seconds that an answer may take; a model may have to be loaded for it."""
    url: str = field(init=False, repr=False, compare=False)
    """What paths are put behind; of a socket a name that stands for this machine."""
    socket: str | None = field(init=False, repr=False, compare=False)
    """A Unix socket's path."""

    def __post_init__(self) -> None:
        """Read the URL; ConfigError where it is none."""
        if not isinstance(self.base_url, str):
            raise TypeError(f"base_url must be a str, not a {type(self.base_url).__name__}")
        if self.api_key is not None and not isinstance(self.api_key, str):
            raise TypeError(f"api_key must be a str, not a {type(self.api_key).__name__}")
        if isinstance(self.timeout_s, bool) or not isinstance(self.timeout_s, int | float):
            raise TypeError(f"timeout_s must be a number of seconds, not {self.timeout_s!r}")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"timeout_s is {self.timeout_s}; it must be more than 0")
        url, socket = _read(self.base_url)
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "socket", socket)

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine: then no proxy stands between."""
        return self.socket is not None or urlsplit(self.url).hostname in _LOOPBACK

    @property
    def headers(self) -> dict[str, str]:
        """What every request says."""
        key = os.environ.get(API_KEY_VARIABLE, "").strip() if self.api_key is None else self.api_key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def command(self, option: str, model: str) -> str:
        """What starts such a server."""
        command = f"akidb-mlx serve {option} {quote(model)}"
        if self.socket is not None:
            return f"{command} --uds {quote(self.socket)}"
        parts = urlsplit(self.url)
        host = "" if parts.hostname in _LOOPBACK else f" --host {parts.hostname}"
        return command + host + (f" --port {parts.port}" if parts.port else "")

    def __str__(self) -> str:
        return self.base_url


def _read(base_url: str) -> tuple[str, str | None]:
    """The URL of requests, and the path of a socket."""
    if match := re.fullmatch(r"(?:unix:(?://)?|http\+unix://)(.+)", base_url, re.IGNORECASE):
        path = Path(unquote(match[1])).expanduser()
        if not path.is_absolute():
            raise ConfigError(f"base_url {base_url!r} should name a socket by its whole path: unix:///PATH")
        return "http://localhost", str(path)
    try:
        parts = urlsplit(base_url)
        parts.port  # noqa: B018  # raises
    except ValueError as error:
        raise ConfigError(f"base_url {base_url!r} is none ({error}); it is {_FORMS}") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"base_url is {base_url!r}, where it should be {_FORMS}")
    if parts.username or parts.password:
        raise ConfigError("base_url holds a name or password; give the key as api_key")
    # As OpenAI's clients have it.
    return re.sub(r"/v1$", "", base_url.rstrip("/")), None
