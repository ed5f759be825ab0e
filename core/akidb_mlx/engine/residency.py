"""Whose weights are in memory: loaded where rows wait for them, freed after a time unused or where others need room.

The caller holds the device threads' lock, unless a method says otherwise. What frees and loads runs on a device thread.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from akidb_mlx.device.memory import Memory
from akidb_mlx.errors import AkiDBMLXError, BackendError

if TYPE_CHECKING:
    from akidb_mlx.model.network import Network

__all__ = ["Holder", "Keep", "Residence", "Residency"]

_log = logging.getLogger(__name__)
# A model whose rows wait is freed for another's only after both: these seconds, and this multiple of its loading time:
# where all models of a budget are asked for all the time, most of the time is spent on rows.
_TURN_S, _TURN_LOADS = 0.5, 5.0

# A lock takes no longer time than the platform's clock can tell.
_LONGEST_WAIT_S = 86_400.0


class Keep(NamedTuple):
    """For how long weights are to stay without a call."""

    seconds: float
    held: bool = True
    """False where it is for whoever may come next."""


@dataclass(eq=False)
class Residence:
    """One model's weights: how they are loaded again, and since when nobody has used them."""

    name: str
    size: int
    """Bytes."""
    load: Callable[[], "Network"]
    """Load them again, on a device thread; AkiDBMLXError where that is not possible, or would be another model."""
    memory: Memory
    keeps: dict[object, Keep] = field(default_factory=dict)
    """By who wants it."""
    on_freed: list[Callable[[], None]] = field(default_factory=list)
    """Told on a device thread, without the lock."""
    last_used: float = field(default_factory=time.monotonic)
    calls: int = 0
    """Calls that are under way, whether or not their rows wait."""
    wanted: bool = False
    """Whether a call that has begun is about to bring rows."""
    loaded_at: float = field(default_factory=time.monotonic)
    load_s: float = 0.0
    loads: int = 1
    frees: int = 0

    @property
    def keep_s(self) -> float:
        """Seconds without use until they are freed."""
        return max((keep.seconds for keep in self.keeps.values()), default=math.inf)

    @property
    def held(self) -> bool:
        """Whether anybody holds the model still."""
        return not self.keeps or any(keep.held for keep in self.keeps.values())

    def used(self) -> None:
        """It was, just now."""
        self.last_used = time.monotonic()

    def snapshot(self, loaded: bool) -> dict[str, Any]:
        """What `stats` says of it; plain values, for any thread."""
        return {
            "loaded": loaded,
            "loads": self.loads,
            "unloads": self.frees,
            "idle_s": 0.0 if self.calls else round(time.monotonic() - self.last_used, 3),
            "keep_alive": None if math.isinf(self.keep_s) else self.keep_s,
        }


class Holder(Protocol):
    """The engine of a model that can be freed."""

    @property
    def residence(self) -> Residence | None:
        """None where it is never freed."""

    @property
    def runtime(self) -> object:
        """What its batches name as their source."""

    @property
    def closed(self) -> bool: ...  # noqa: D102
    @property
    def rows_wait(self) -> bool:
        """Whether any row waits, the model being there or not."""

    @property
    def model(self) -> "Network | None":
        """None where its weights are freed."""

    def place(self, network: "Network | None") -> None:
        """Compute with this from now on."""

    def drain(self) -> Callable[[Exception], None]:
        """Take out all that waits; gives what fails it."""


class Host(Protocol):
    """The threads that serve the holders."""

    condition: Condition

    @property
    def holders(self) -> Sequence[Holder]:
        """All that are served."""

    def computes(self, holder: Holder) -> bool:
        """Whether a batch of this one is under way."""

    def clear_cache(self) -> None:
        """Give freed memory back to the system."""


class Residency:
    """The weights of all models of the threads."""

    def __init__(self, host: Host) -> None:
        """Of no model yet."""
        self._host = host

    def due(self, now: float) -> bool:
        """Whether there is something to free or to load now; see `work`."""
        return any(self._expired(one, now) or self._may_load(one, now) for one in self._host.holders)

    def wait_s(self, now: float) -> float | None:
        """Seconds until something may be due that was not at `now` and that nobody tells of; None for ever."""
        times = [self._expires_at(one) for one in self._host.holders]
        if any(self._wants(one) for one in self._host.holders):
            times += [self._turn_ends_at(one) for one in self._host.holders if one.model is not None and one.rows_wait]
        return min((min(at - now, _LONGEST_WAIT_S) for at in times if now < at < math.inf), default=None)

    def work(self) -> None:
        """Free what nobody used for its time, load the model whose rows wait. No batch computes; without the lock."""
        with self._host.condition:
            now = time.monotonic()
            expired = [(one, self._take_out(one)) for one in self._host.holders if self._expired(one, now)]
            loadable = [one for one in self._host.holders if self._may_load(one, now)]
            wanted = min(loadable, key=lambda one: _residence(one).last_used, default=None)
        for one, network in expired:
            self._free(one, network, f"unused for {_residence(one).keep_s:g} s")
        if wanted is not None:
            self.load(wanted)

    def load(self, holder: Holder) -> None:
        """Load a model's weights again; where that fails its requests do. On a device thread, without the lock."""
        residence = _residence(holder)
        try:
            self.load_now(holder)
        except Exception as error:
            with self._host.condition:
                residence.wanted = False
                fail = holder.drain()
            fail(error if isinstance(error, AkiDBMLXError) else BackendError(f"{residence.name}: {error!r}"))
            _log.error("%s is not loaded again: %s", residence.name, error)

    def load_now(self, holder: Holder) -> None:
        """The same, and raises what makes it fail."""
        residence, began = _residence(holder), time.monotonic()
        network = residence.load()
        with self._host.condition:
            residence.wanted = False
            if holder.closed:
                return
            holder.place(network)
            residence.memory.hold(residence.size)
            residence.loads += 1
            residence.loaded_at = residence.last_used = time.monotonic()
            residence.load_s = residence.loaded_at - began
        _log.info("%s is loaded again (%.2f s)", residence.name, residence.load_s)

    def make_room(self, size: int, memory: Memory, why: str) -> None:
        """Free the least recently used models until `size` bytes are free, or none at all where that is in vain.

        On a device thread, without the lock. Those that nobody holds go first, then those without rows that wait; one
        that computes stays.
        """
        while True:
            with self._host.condition:
                room, victims = memory.room(fresh=True), self._victims()
                if room >= size or room + memory.share_of(sum(_residence(one).size for one in victims)) < size:
                    return
                victim = victims[0]
                network = self._take_out(victim)
            self._free(victim, network, why)

    def _victims(self) -> list[Holder]:
        here = [one for one in self._host.holders if one.residence is not None and one.model is not None]
        free = [one for one in here if not self._host.computes(one)]
        return sorted(free, key=lambda one: (_residence(one).held, one.rows_wait, _residence(one).last_used))

    def _expires_at(self, holder: Holder) -> float:
        residence = holder.residence
        if residence is None or holder.model is None or holder.rows_wait or residence.calls:
            return math.inf
        return residence.last_used + residence.keep_s

    def _expired(self, holder: Holder, now: float) -> bool:
        return self._expires_at(holder) <= now and not self._host.computes(holder)

    def _wants(self, holder: Holder) -> bool:
        residence = holder.residence
        return residence is not None and holder.model is None and (holder.rows_wait or residence.wanted)

    def _turn_ends_at(self, holder: Holder) -> float:
        residence = holder.residence
        if residence is None:
            return math.inf
        return residence.loaded_at + max(_TURN_S, _TURN_LOADS * residence.load_s)

    def _may_load(self, holder: Holder, now: float) -> bool:
        """Whether it is wanted, and no model has to go for it that is in its turn."""
        if not self._wants(holder):
            return False
        residence = _residence(holder)
        here = [one for one in self._host.holders if one.residence is not None and one.model is not None]
        in_turn = [one for one in here if one.rows_wait and self._turn_ends_at(one) > now]
        if not in_turn:
            return True
        others = sum(_residence(one).size for one in here if one not in in_turn)
        return residence.size <= residence.memory.room(residence.size) + residence.memory.share_of(others)

    def _take_out(self, holder: Holder) -> "Network | None":
        network, residence = holder.model, _residence(holder)
        holder.place(None)
        residence.memory.let_go(residence.size)
        return network

    def _free(self, holder: Holder, network: "Network | None", why: str) -> None:
        if network is not None:
            network.let_go()
        residence = _residence(holder)
        for told in list(residence.on_freed):
            told()
        self._host.clear_cache()
        residence.frees += 1  # once they really are
        _log.info("%s: %.2f GB of weights are freed, %s", residence.name, residence.size / 1e9, why)


def _residence(holder: Holder) -> Residence:
    assert holder.residence is not None
    return holder.residence
