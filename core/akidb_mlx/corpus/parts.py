"""OUT.parts/: rows that are safe before the whole is done. A part is there as a whole or not at all.

A part is an Arrow file of consecutive rows whose metadata says up to where the input is read; its rejected rows
lie beside it. Both are written under another name, flushed to the disk and renamed; the Arrow file's name is
what counts, so that a kill at any point loses only rows that no part had yet.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from akidb_mlx.corpus.plain import as_json
from akidb_mlx.errors import ConfigError

__all__ = ["PartFacts", "Parts", "replaced", "sync_folder"]

_KEY = b"akidb_mlx"
_RECIPE = "recipe.json"
_SCHEMA = "schema.arrow"


@dataclass(frozen=True)
class PartFacts:
    """What a part knows of itself."""

    rows: int
    rejected: int
    given: int
    """Rows whose vector was in the input."""
    largest: float
    """Magnitude of the largest number in its vectors."""
    source: int
    number: int
    position: int
    """Up to where the input is read: index of the source, number of the row, bytes of the source."""
    vectors: int = 0
    """Where each token has a vector: how many there are."""
    texts: int = 0
    """Where texts are split: how many there are."""
    truncated: int = 0
    """Texts that were cut at max_seq_length."""
    empty: int = 0
    """Texts without a word, which have a vector all the same."""


class Parts:
    """The committed parts of one output, and the right to add to them."""

    def __init__(self, output: Path) -> None:
        """Make the folder and lock it against other runs until `close`."""
        self.output = output
        self.folder = self._folder(output)
        self.folder.mkdir(exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ConfigError(f"another run is writing {output}; wait for it, or write to another file") from None
        self.facts: list[PartFacts] = []
        self._read()

    @staticmethod
    def _folder(output: Path) -> Path:
        return output.with_name(output.name + ".parts")

    @classmethod
    def exist(cls, output: Path) -> bool:
        """Whether there are parts of this output."""
        return cls._folder(output).exists()

    def _read(self) -> None:
        while (file := self._file(len(self.facts))).exists():
            try:
                with pa.memory_map(str(file)) as stream:
                    facts = json.loads(pa.ipc.open_file(stream).schema.metadata[_KEY])
            except (pa.ArrowException, TypeError, KeyError, ValueError):
                self.close()
                raise ConfigError(f"{file} is damaged; delete {self.folder} and start anew") from None
            self.facts.append(PartFacts(**facts))

    @property
    def after(self) -> tuple[int, int]:
        """Index of the source and number of the row behind which to go on reading."""
        return (self.facts[-1].source, self.facts[-1].number) if self.facts else (0, 0)

    @property
    def recipe(self) -> dict[str, Any] | None:
        """How the parts were made; None before the first."""
        try:
            recipe: dict[str, Any] = json.loads((self.folder / _RECIPE).read_bytes())
            return recipe
        except FileNotFoundError:
            return None

    @recipe.setter
    def recipe(self, recipe: dict[str, Any]) -> None:
        with replaced(self.folder / _RECIPE) as stream:
            stream.write(json.dumps(recipe).encode())

    @property
    def schema(self) -> pa.Schema | None:
        """What was settled for the id and the kept columns; None before the first part, or by an earlier release."""
        try:
            return pa.ipc.read_schema(pa.py_buffer((self.folder / _SCHEMA).read_bytes()))
        except FileNotFoundError:
            return None

    @schema.setter
    def schema(self, schema: pa.Schema) -> None:
        with replaced(self.folder / _SCHEMA) as stream:
            stream.write(schema.serialize())

    def add(self, table: pa.Table, rejects: Sequence[dict[str, Any]], facts: PartFacts) -> None:
        """Commit the next part."""
        index = len(self.facts)
        rejects_file = self._rejects_file(index)
        if rejects:
            with replaced(rejects_file) as stream:
                stream.writelines(as_json(reject).encode("utf-8", "replace") + b"\n" for reject in rejects)
        table = table.replace_schema_metadata({_KEY: json.dumps(asdict(facts))})
        with replaced(self._file(index)) as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
        self.facts.append(facts)

    def tables(self) -> Iterator[pa.Table]:
        """Each part in order, one in memory at a time."""
        for index in range(len(self.facts)):
            yield self.table(index)

    def table(self, index: int) -> pa.Table:
        """The rows of one part."""
        with self._file(index).open("rb") as stream:
            return pa.ipc.open_file(stream).read_all()

    def rejects(self) -> Iterator[bytes]:
        """What the parts' files of rejected rows hold, in order."""
        for index, facts in enumerate(self.facts):
            if facts.rejected:
                yield self._rejects_file(index).read_bytes()

    def clear(self) -> None:
        """Forget all parts."""
        # The last part first, and before its rejects: what is left stays whole.
        for file in sorted(
            self.folder.iterdir(), key=lambda file: (file.stem[:8], file.suffix == ".arrow"), reverse=True
        ):
            if file.name != "lock":
                file.unlink()
        self.facts.clear()

    def remove(self) -> None:
        """Delete the folder and let others write."""
        with contextlib.suppress(OSError):
            self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let others write; the parts stay."""
        self._lock.close()

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:08}.arrow"

    def _rejects_file(self, index: int) -> Path:
        return self.folder / f"{index:08}.rejects.jsonl"


@contextlib.contextmanager
def replaced(file: Path) -> "Iterator[BinaryIO]":
    """Write a file that takes its name as a whole, flushed to the disk; on an error nothing is left of it."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make a folder's renames outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
