"""Digests of files, remembered in the user's cache. No MLX here."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

from akidb_mlx.checkpoint.hub import sha256_of
from akidb_mlx.device import cache_folder as device_cache

__all__ = ["cache_folder", "digest_of", "known_digest", "write_whole"]


def cache_folder() -> Path:
    """The user's; where there is no home folder, one that cannot be written."""
    try:
        return device_cache.cache_folder()
    except FileNotFoundError:
        return Path(os.devnull)


def digest_of(file: Path) -> str:
    """SHA-256 (hex) of a file, remembered by path, size and time of change."""
    status = file.stat()
    key = _key(file, status.st_size, status.st_mtime_ns)
    memory = cache_folder() / "digests.json"
    known = _read(memory)
    if key not in known:
        known[key] = sha256_of(file)
        with contextlib.suppress(OSError):  # the next process computes it again
            write_whole(memory, json.dumps(known))
    return known[key]


def known_digest(file: Path, size: int, changed_ns: int) -> str | None:
    """The remembered digest of what a file was at a size and time of change; None where nobody asked then."""
    return _read(cache_folder() / "digests.json").get(_key(file, size, changed_ns))


def _key(file: Path, size: int, changed_ns: int) -> str:
    return f"{file.resolve()}:{size}:{changed_ns}"


def _read(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def write_whole(file: Path, text: str) -> None:
    """Replace a file as a whole, its folder made where it is missing; OSError where that is not allowed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as stream:
        stream.write(text)
    Path(stream.name).replace(file)
