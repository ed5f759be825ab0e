"""What the user names → the files to read, in an order that never changes."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.config.sources import expanded
from akidb_mlx.errors import InputError

__all__ = ["TABLES", "TEXTS", "Source", "describe_sources", "digest_contents", "find_sources"]

TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
TEXTS = (".txt", ".text", ".md", ".markdown", ".rst")


@dataclass(frozen=True, slots=True)
class Source:
    """One file: a table with a row per record, or a text that is one row."""

    name: str
    """As the user wrote it; within a folder, with the folder's name before it."""
    path: Path
    size: int
    changed_ns: int

    @property
    def suffix(self) -> str:
        """Decides the format."""
        return self.path.suffix.lower()

    @property
    def is_table(self) -> bool:
        """Whether it has columns."""
        return self.suffix in TABLES


def find_sources(inputs: Sequence[str | os.PathLike[str]], output: Path) -> list[Source]:
    """The files behind `inputs`, folders with all below them by name; never the output or its side files.

    In a folder hidden files and those of other formats are passed over; one named directly is refused.

    Raises:
        InputError: nothing is there, it cannot be read, or nothing in it is of a known format.
    """
    sources = [source for given in inputs for source in _find(expanded(given, "INPUT"), output.absolute())]
    if not sources:
        raise InputError(f"no file to read in {', '.join(map(str, inputs))}; known formats: {_KNOWN}")
    return sources


_KNOWN = " ".join(TABLES + TEXTS)


def _find(path: Path, output: Path) -> Iterator[Source]:
    try:
        if path.is_dir():
            yield from _find_below(path, output)
            return
        if path.suffix.lower() not in TABLES + TEXTS:
            raise InputError(f"{path} is of no known format; known are {_KNOWN}")
        if path.absolute() == output:
            raise InputError(f"{path} is both input and output; write to another file")
        yield _source(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _find_below(folder: Path, output: Path) -> Iterator[Source]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            ours = path.parent.absolute() == output.parent and name.startswith(output.name)
            if not ours and not name.startswith(".") and path.suffix.lower() in TABLES + TEXTS:
                yield _source(path)
        folders[:] = [name for name in folders if not name.endswith(".parts")]


def _source(path: Path) -> Source:
    status = path.stat()
    name = path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # for output and messages
    return Source(name, path, status.st_size, status.st_mtime_ns)


def digest_contents(sources: Sequence[Source], *, names: bool) -> str:
    """A digest of what the files hold, in their order; with `names` also of how they were named, where ids say that."""
    digest = hashlib.blake2b(digest_size=32)
    for source in sources:
        with source.path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, hashlib.blake2b).digest())
        digest.update(f"{source.name if names else source.suffix}\n".encode())
    return digest.hexdigest()


def describe_sources(sources: Sequence[Source]) -> dict[str, Any]:
    """What tells at once that a later run reads the same: count, bytes, and a digest of places, sizes and times."""
    digest = hashlib.sha256()
    for source in sources:
        place = source.path.resolve().as_posix()
        digest.update(f"{place}\0{source.size}\0{source.changed_ns}\n".encode("utf-8", "surrogateescape"))
    return {
        "files": len(sources),
        "bytes": sum(source.size for source in sources),
        "first": sources[0].name,
        "digest": digest.hexdigest(),
    }
