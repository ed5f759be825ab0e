"""How much memory batches may take: what this process could ever have, and what is free now. No MLX."""

import functools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "NoMemoryError", "Room", "Taken", "measure_host", "resident_bytes"]

# Free memory is looked up anew after this time (seconds), or where more than this share of it is needed; what batches
# take meanwhile is counted by `Memory`.
_FRESH_S = 1.0
_SMALL_SHARE = 0.25
# Share of the free memory that batches may take: others need some, and estimates have their limits.
_SHARE = 0.9
# A cgroup's limit from which on it is none (bytes).
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class Room:
    """Bytes that this process may take beyond what it holds."""

    possible: int
    """With nothing but this process on the machine."""
    free: int
    """Now."""
    limit: str
    """What `possible` is bounded by, in words."""


@dataclass
class Taken:
    """Bytes that the models of this process take on a device, whatever limit each was loaded with."""

    weights: int = 0
    batches: int = 0
    """Of those that compute now."""


class Memory:
    """The free memory of a device, less what batches that compute are going to take. The caller holds a lock."""

    def __init__(
        self,
        measure: Callable[[], Room],
        taken: Taken | None = None,
        tell_weights: Callable[[int], None] | None = None,
    ) -> None:
        """`measure` looks the numbers up; it is asked a few times per second at most.

        `tell_weights` is called with the bytes of all weights whenever these change.
        """
        self._measure = measure
        self._tell_weights = tell_weights or (lambda _: None)
        self._room = Room(0, 0, "")
        self._until = 0.0
        self.taken = Taken() if taken is None else taken

    @property
    def reserved(self) -> int:
        """Bytes of the batches that compute now."""
        return self.taken.batches

    def reserve(self, size: int) -> None:
        """A batch is going to take this many bytes."""
        self.taken.batches += size

    def release(self, size: int) -> None:
        """It has ended."""
        self.taken.batches -= size

    def hold(self, size: int) -> None:
        """A model's weights take this many bytes."""
        self.taken.weights += size
        self._tell_weights(self.taken.weights)

    def let_go(self, size: int) -> None:
        """They are freed."""
        self.taken.weights -= size
        self._tell_weights(self.taken.weights)

    def forget(self) -> None:
        """In a forked child no batch computes."""
        self.taken.batches, self._until = 0, 0.0

    @staticmethod
    def share_of(size: int) -> int:
        """What `room` grows by where `size` bytes are freed."""
        return int(_SHARE * size)

    def room(self, needed: int = 0, *, fresh: bool = False) -> int:
        """Bytes that another batch may take now; looked up with more care where much is `needed`."""
        room = self._look(fresh)
        if not fresh and needed + self.reserved > _SMALL_SHARE * room.free:
            room = self._look(fresh=True)
        return int(_SHARE * room.free) - self.reserved

    def possible(self) -> tuple[int, str]:
        """Bytes that one batch could have with nothing beside it, and what bounds them."""
        room = self._look(fresh=True)
        return int(_SHARE * room.possible), room.limit

    def _look(self, fresh: bool) -> Room:
        now = time.monotonic()
        if fresh or now >= self._until:
            self._room, self._until = self._measure(), now + _FRESH_S
        return self._room


class NoMemoryError(Exception):
    """The free memory does not hold a batch; all numbers in bytes."""

    def __init__(self, size: int, free: int, possible: int, limit: str) -> None:
        """`size` is what the batch takes, `possible` what it could have with nothing beside it, bounded by `limit`."""
        super().__init__(f"about {size / 1e9:.2f} GB are needed, {max(0, free) / 1e9:.2f} GB are free of {limit}")
        self.size, self.possible, self.limit = size, possible, limit


def measure_host() -> Room:
    """RAM as this process may use it: the machine's, its cgroups' limits and RLIMIT_AS, whichever leaves least."""
    rooms = [*_machine(), *_cgroups(), *_address_space()]
    tightest = min(rooms, key=lambda room: room.possible)
    return Room(tightest.possible, min(room.free for room in rooms), tightest.limit)


def _machine() -> Iterator[Room]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = _lines(Path("/proc/meminfo"))
    own = _own_bytes()[1]
    free = facts.get("MemAvailable", (total - own) // 1024) * 1024
    yield Room(max(0, total - own), free, f"{total / 1e9:.1f} GB of RAM")


def _cgroups() -> Iterator[Room]:
    """What the memory limits of this process's cgroups leave."""
    for folder, limit, usage in _limited_cgroups(os.getpid()):
        with suppress(OSError, ValueError):
            used, cached = int(usage.read_text()), _lines(folder / "memory.stat").get("inactive_file", 0)
            left = max(0, limit - used + cached)
            yield Room(max(left, limit - _own_bytes()[1]), left, f"a memory limit of {limit / 1e9:.1f} GB")


@functools.lru_cache(maxsize=1)
def _limited_cgroups(
    process: int, mount: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> tuple[tuple[Path, int, Path], ...]:
    """(folder, limit in bytes, file of the usage) of each cgroup that limits this process (versions 1 and 2)."""
    found = {}
    lines = groups.read_text().splitlines() if groups.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = Path(path.lstrip("/"))
        for folder in (mount / "memory", mount) if controllers else (mount / "unified", mount):
            for part in (group, *group.parents):  # an ancestor's limit holds too; a container may see only the last
                with suppress(OSError, ValueError):  # "max" where there is none, in version 1 a huge number
                    limit = int((folder / part / names[0]).read_text())
                    if limit < _NO_LIMIT:
                        found[folder / part] = limit, folder / part / names[1]
    return tuple((folder, limit, usage) for folder, (limit, usage) in found.items())


def _address_space() -> Iterator[Room]:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        left = max(0, limit - _own_bytes()[0])
        yield Room(left, left, f"an address space of {limit / 1e9:.1f} GB (ulimit -v)")


def _own_bytes() -> tuple[int, int]:
    """(address space, resident memory) of this process; on macOS the most it ever had resident."""
    with suppress(OSError, ValueError):
        size, resident = Path("/proc/self/statm").read_text().split()[:2]
        return int(size) * os.sysconf("SC_PAGE_SIZE"), int(resident) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def resident_bytes() -> int:
    """RAM that this process takes; on macOS the most it ever took."""
    return _own_bytes()[1]


def _lines(file: Path) -> dict[str, int]:
    """The numbers of a file of names and numbers; none where there is no such file."""
    facts = {}
    with suppress(OSError):
        for line in file.read_text().splitlines():
            name, _, value = line.replace(":", " ", 1).partition(" ")
            with suppress(ValueError, IndexError):
                facts[name] = int(value.split()[0])
    return facts
