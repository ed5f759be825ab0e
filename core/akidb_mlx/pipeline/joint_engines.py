"""Engines that several kinds of one checkpoint share: loaded by the first, given a head by each, closed by the last."""

import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.engine.model_engine import Engine
from akidb_mlx.errors import BackendError, ClosedError

if TYPE_CHECKING:
    from akidb_mlx.model.heads.base import Head
    from akidb_mlx.model.heads.joint import Joint
    from akidb_mlx.model.network import Network

__all__ = ["join"]


LoadHead = Callable[["Network"], "Head"]


@dataclass(eq=False)
class _Shared:
    engine: Engine
    heads: dict[str, int] = field(default_factory=dict)
    """Head → how many use it."""
    loads: dict[str, LoadHead] = field(default_factory=dict)
    """Head → how it is loaded, where it is in use."""


_lock = threading.Lock()
_shared: dict[Hashable, _Shared] = {}


def join(
    key: Hashable, name: str, make_engine: Callable[[], Engine], load_head: LoadHead
) -> "tuple[Engine, Head, Callable[[], None], int]":
    """The engine of all that say `key`, with the head `name` in it, that head, what leaves it again, all its bytes.

    Heads are loaded and put in on the first device thread, while no batch computes.
    """
    with _lock:  # also while it loads: another kind of the same checkpoint waits for the backbone
        shared = _shared.get(key)
        if shared is None or shared.engine.closed:
            shared = _shared[key] = _Shared(make_engine())
            _load_again_with_heads(shared)
        try:
            head, size = DEVICE_THREADS.run(lambda: _put_in(shared.engine, name, load_head)).result()
        except BaseException:
            _close_unused(key, shared)
            raise
        shared.heads[name] = shared.heads.get(name, 0) + 1
        shared.loads[name] = load_head
    return shared.engine, head, lambda: _leave(key, shared, name), size


def _load_again_with_heads(shared: _Shared) -> None:
    """Where its weights are freed and loaded again, those of the heads in use are too."""
    residence = shared.engine.residence
    assert residence is not None
    load_backbone = residence.load

    def load() -> "Network":
        network = load_backbone()
        _joint(network).heads.update({name: load_head(network) for name, load_head in shared.loads.items()})
        return network

    residence.load = load


def _put_in(engine: Engine, name: str, load_head: LoadHead) -> "tuple[Head, int]":
    if engine.model is None:  # freed; it is closed by its last user alone, who holds the lock
        DEVICE_THREADS.residency.load_now(engine)
    network = engine.live_model
    heads = _joint(network).heads
    if name not in heads:
        heads[name] = load_head(network)
    return heads[name], network.parameter_bytes()


def _joint(network: "Network") -> "Joint":
    from akidb_mlx.model.heads.joint import Joint

    assert isinstance(network.head, Joint)
    return network.head


def _leave(key: Hashable, shared: _Shared, name: str) -> None:
    with _lock:
        shared.heads[name] -= 1
        if not shared.heads[name]:
            del shared.heads[name], shared.loads[name]
            if shared.heads:
                _take_out(shared.engine, name)
        _close_unused(key, shared)


def _take_out(engine: Engine, name: str) -> None:
    """A head that nobody uses is computed no more."""

    def take_out() -> None:
        if engine.model is not None:
            _joint(engine.model).heads.pop(name, None)

    try:
        DEVICE_THREADS.run(take_out).result()
    except (BackendError, ClosedError):  # the process is ending, or the GPU is lost
        return


def _close_unused(key: Hashable, shared: _Shared) -> None:
    if not shared.heads:
        if _shared.get(key) is shared:
            del _shared[key]
        shared.engine.close()


def _after_fork() -> None:
    """In a forked child: a load that another thread had begun never ends here."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
