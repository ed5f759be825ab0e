"""Whether a checkpoint's files are still those that a model was loaded from. No MLX here."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from akidb_mlx.checkpoint.digests import digest_of, known_digest
from akidb_mlx.checkpoint.needed_files import further_heads, needed_files
from akidb_mlx.errors import CheckpointError

__all__ = ["Stamps"]

_WEIGHTS = (".safetensors", ".bin", ".pt")
Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""


@dataclass(frozen=True)
class Stamps:
    """The size and time of change of every file that decides what a checkpoint is."""

    folder: Path
    files: dict[str, Stamp] = field(default_factory=dict)
    """By their path within the folder."""

    @classmethod
    def of(cls, folder: Path) -> "Stamps":
        """As they are now; take them before the files are read."""
        names = _names(folder)
        own = [name for name in names if "/" not in name and name.endswith(_WEIGHTS)]  # modules.json may say "."
        wanted = {*needed_files(folder, names), *further_heads(names), *own}
        return cls(folder, {name: stamp for name in sorted(wanted) if (stamp := _stamp(folder / name))})

    def changed(self) -> str | None:
        """The first file that is another, new or missing; None where all are the same, by content where that is known.

        A file that was only written again, by another download perhaps, is the same where its digest is remembered.
        """
        now = Stamps.of(self.folder).files
        for name in sorted({*self.files, *now}):
            before, after = self.files.get(name), now.get(name)
            if before != after and not self._same(name, before, after):
                return name
        return None

    def refuse_changed(self, name: str) -> None:
        """CheckpointError where a file is another than when the model `name` was loaded."""
        file = self.changed()
        if file is not None:
            what = "was changed" if (self.folder / file).exists() else "is gone"
            raise CheckpointError(
                f"{self.folder / file} {what} since {name} was loaded, so that its vectors would no longer be of one "
                "model: close it and load it again (a server: start it again), and make anew what was indexed with it"
            )

    def _same(self, name: str, before: Stamp | None, after: Stamp | None) -> bool:
        if before is None or after is None or before[0] != after[0]:
            return False
        known = known_digest(self.folder / name, *before)
        return known is not None and known == digest_of(self.folder / name)


def _names(folder: Path) -> list[str]:
    """All files below a folder, but for hidden folders'; paths with "/"."""
    names: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        within = Path(parent).relative_to(folder)
        names += [(within / file).as_posix() for file in files]
    return names


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
