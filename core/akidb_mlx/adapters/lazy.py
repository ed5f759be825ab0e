"""A model that loads on first use: a configuration that becomes an embedder, a reranker or another kind."""

import asyncio
import os
import pickle
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from akidb_mlx.adapters.server import Elsewhere, Server, server_of
from akidb_mlx.checkpoint.joint_heads import has_joint_heads
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.options import ModelOptions
from akidb_mlx.remote.model import settings_of
from akidb_mlx.restoring import restore

__all__ = ["Lazy"]

Face = TypeVar("Face")
Config = TypeVar("Config", bound=ModelConfig)
_OF_ANY_KIND = tuple(ModelOptions.model_fields)
# Every one of them, by its id: equal ones stay apart.
_alive: "weakref.WeakValueDictionary[int, Lazy[Any, Any]]" = weakref.WeakValueDictionary()


class Lazy(Generic[Config, Face]):
    """A configuration that becomes a model (an `Embedder`, say) on first use, once, whatever thread or event loop asks.

    A kind of model names its configuration and says how one is loaded.
    """

    config_class: ClassVar[type[ModelConfig]]
    argument: ClassVar[str]
    """What an adapter calls a ready model."""
    protocol: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """The methods that a ready model must have."""
    also_takes: ClassVar[tuple[type[ModelConfig], ...]] = ()
    """Configurations of other kinds whose models do as well."""
    remote_class: ClassVar[type[Any]]
    """What asks a server for such a model."""
    may_share: ClassVar[bool] = False
    """Whether a model of this kind may share its passes with one of another kind."""

    def __init__(self, source: Config | Face, server: Server | None = None) -> None:
        """Load nothing yet, nor ask a server; a ready model is taken as it is, with the server that it has."""
        self.config: Config | None = self._config_of(source)
        self.server: Server | None = server if self.config is source else server_of(source)
        if self.server is not None and self.config is not None:
            settings_of(self.config)  # what a server cannot be asked is told now
        self._face: Face | None = None if self.config is source else source  # type: ignore[assignment]
        # By process: a load that another thread had begun never ends in a forked child.
        self._loads: dict[int, Future[Face]] = {}
        _alive[id(self)] = self

    def load(self) -> Face:
        """The model; the first caller loads it while the others wait."""
        if self._face is not None:
            return self._face
        future, is_mine = self._claim()
        if is_mine:
            self._fulfil(future)
        return future.result()

    async def aload(self) -> Face:
        """`load` in a thread of its own, which leaves the event loop and its executor free."""
        if self._face is not None:
            return self._face
        future, is_mine = self._claim()
        if is_mine:
            threading.Thread(target=self._fulfil, args=(future,), name="akidb-mlx-load", daemon=True).start()
        return await asyncio.wrap_future(future)

    def picklable_config(self) -> Config:
        """What it can be made from again; PicklingError where that is unknown."""
        if self.config is None:
            raise pickle.PicklingError(
                f"{self.argument}={type(self._face).__name__} has no configuration from which another process "
                f"could make it again; give model= in place of {self.argument}="
            )
        return self.config

    def picklable(self) -> "Config | Face | Elsewhere[Config]":
        """`picklable_config`, with the server if there is one, or the model where it can be made again by itself."""
        if self.server is not None and self.config is not None:
            return Elsewhere(self.config, self.server)
        mine = getattr(self._face, "config", None)
        if self.config is None and self._face is not None and isinstance(mine, self.also_takes):
            return self._face
        return self.picklable_config()

    @classmethod
    def checked(cls, face: Any) -> Face:
        """Something as a ready model; TypeError where it lacks a method, or is of another kind."""
        for method in cls.needs:
            if isinstance(face, type) or not callable(getattr(face, method, None)):
                name = cls.argument
                raise TypeError(f"{name} is no {name} but {face!r:.80} (no {method}; see {cls.protocol})")
        config = getattr(face, "config", None)
        if isinstance(config, ModelConfig) and not isinstance(config, (cls.config_class, *cls.also_takes)):
            raise TypeError(f"{cls.argument} is a {type(face).__name__}, another kind of model (see {cls.protocol})")
        taken: Face = face
        return taken

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made from, loaded or not."""
        return restore, (type(self), self.picklable())

    @classmethod
    def _restored(cls, source: "Config | Face | Elsewhere[Config]") -> Self:
        return cls(source.config, source.server) if isinstance(source, Elsewhere) else cls(source)

    def _make(self, config: Config) -> Face:
        """Load a model."""
        raise NotImplementedError

    def _made(self, config: Config) -> Face:
        """A model, here or on a server."""
        if self.server is None:
            return self._make(config)
        face: Face = self.remote_class.load(config, **self.server.given())
        return face

    def _config_of(self, source: Any) -> Config | None:
        """A configuration as it is, or that of a model which has one."""
        config: Any = source if isinstance(source, self.config_class) else getattr(source, "config", None)
        return config if isinstance(config, self.config_class) else None  # type: ignore[return-value]

    def _claim(self) -> tuple["Future[Face]", bool]:
        """This process's load, and whether the caller is the one to do it."""
        mine: Future[Face] = Future()
        mine.set_running_or_notify_cancel()  # so that a waiter that is cancelled does not cancel it for the others
        future = self._loads.setdefault(os.getpid(), mine)
        return future, future is mine

    def _fulfil(self, future: "Future[Face]", with_others: bool = True) -> None:
        assert self.config is not None
        try:
            self._face = self._made(self.config)
            if with_others and self.may_share and self.server is None:
                self._load_what_shares(self._face)
        except BaseException as error:
            del self._loads[os.getpid()]
            future.set_exception(error)
        else:
            future.set_result(self._face)

    def _load_what_shares(self, face: Any) -> None:
        """Load the others that have a head in this one's model, before the first pass, so that they share that too."""
        others = [other for other in list(_alive.values()) if type(other) is not type(self) and self._shares(other)]
        if others and has_joint_heads(Path(face.info()["path"])):
            for other in others:
                future, is_mine = other._claim()
                if is_mine:  # else another thread loads it, and may be waiting for this one
                    other._fulfil(future, with_others=False)

    def _shares(self, other: "Lazy[Any, Any]") -> bool:
        """Whether the other waits to be loaded with the same model and settings."""
        if not other.may_share or other._face is not None or other.server is not None:
            return False
        return all(getattr(self.config, name) == getattr(other.config, name) for name in ("model", *_OF_ANY_KIND))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or self.config is None:
            return self is other
        return bool(self.config == other.config and self.server == other.server)

    def __hash__(self) -> int:
        return id(self) if self.config is None else hash((self.config, self.server))

    def __str__(self) -> str:
        if self.config is None:
            return f"{self.argument}={type(self._face).__name__}"
        plain = self.config_class.model_fields
        said = [f"{name}={value!r}" for name, value in self.config if name != "model" and value != plain[name].default]
        if self.server is not None:
            said.append(f"base_url={self.server.base_url!r}")
        return ", ".join([f"model={self.config.model!r}", *said])
