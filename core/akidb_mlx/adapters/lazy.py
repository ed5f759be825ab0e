"""A model that loads on first use: a configuration that becomes a face, whatever kind of model it is."""

import asyncio
import os
import pickle
import threading
from concurrent.futures import Future
from typing import Any, ClassVar, Generic, TypeVar

from akidb_mlx.config.model_config import ModelConfig

__all__ = ["Lazy"]

Face = TypeVar("Face")
Config = TypeVar("Config", bound=ModelConfig)


class Lazy(Generic[Config, Face]):
    """A configuration that becomes a face on first use, once, whatever thread or event loop asks.

    A kind of model names its configuration and says how a face is made of one.
    """

    config_class: ClassVar[type[ModelConfig]]
    argument: ClassVar[str]
    """What an adapter calls a ready face."""
    protocol: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """The methods without which something is no such face."""
    also_takes: ClassVar[tuple[type[ModelConfig], ...]] = ()
    """Configurations of other kinds whose faces do as well."""

    def __init__(self, source: Config | Face) -> None:
        """Load nothing yet; a face is taken as it is."""
        self.config: Config | None = self._config_of(source)
        self._face: Face | None = None if self.config is source else source  # type: ignore[assignment]
        # By process: a load that another thread had begun never ends in a forked child.
        self._loads: dict[int, Future[Face]] = {}

    def load(self) -> Face:
        """The face; the first caller loads it while the others wait."""
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

    @classmethod
    def checked(cls, face: Any) -> Face:
        """Something as a face; TypeError where it lacks what a face has, or is of another kind."""
        for method in cls.needs:
            if isinstance(face, type) or not callable(getattr(face, method, None)):
                name = cls.argument
                raise TypeError(f"{name} is no {name} but {face!r:.80} (no {method}; see {cls.protocol})")
        config = getattr(face, "config", None)
        if isinstance(config, ModelConfig) and not isinstance(config, (cls.config_class, *cls.also_takes)):
            raise TypeError(
                f"{cls.argument} is a {type(face).__name__}, another kind of model; a {cls.protocol} is wanted here"
            )
        taken: Face = face
        return taken

    def _make(self, config: Config) -> Face:
        """Load a face."""
        raise NotImplementedError

    def _config_of(self, source: Any) -> Config | None:
        """A configuration as it is, or that of a face which has one."""
        config: Any = source if isinstance(source, self.config_class) else getattr(source, "config", None)
        return config if isinstance(config, self.config_class) else None  # type: ignore[return-value]

    def _claim(self) -> tuple["Future[Face]", bool]:
        """This process's load, and whether the caller is the one to do it."""
        mine: Future[Face] = Future()
        mine.set_running_or_notify_cancel()  # so that a waiter that is cancelled does not cancel it for the others
        future = self._loads.setdefault(os.getpid(), mine)
        return future, future is mine

    def _fulfil(self, future: "Future[Face]") -> None:
        assert self.config is not None
        try:
            self._face = self._make(self.config)
        except BaseException as error:
            del self._loads[os.getpid()]
            future.set_exception(error)
        else:
            future.set_result(self._face)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or self.config is None:
            return self is other
        return bool(self.config == other.config)

    def __hash__(self) -> int:
        return id(self) if self.config is None else hash(self.config)

    def __str__(self) -> str:
        if self.config is None:
            return f"{self.argument}={type(self._face).__name__}"
        plain = self.config_class.model_fields
        said = [f"{name}={value!r}" for name, value in self.config if name != "model" and value != plain[name].default]
        return ", ".join([f"model={self.config.model!r}", *said])
