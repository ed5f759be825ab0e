"""A loaded model and who uses it: equal settings share one, loaded once, dropped some time after its last user.

Its weights and tokenizers may be freed meanwhile (`engine/residency.py`); the next call loads them again.
"""

import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.joint_heads import has_joint_heads
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.unchanged import Stamps
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.device.choice import FORKED, Device
from akidb_mlx.device.precision import FLOAT32_ERROR, describe_error, float32_error
from akidb_mlx.effective.recipe import AnyRecipe, Recipe, read_recipe, warn_once
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.engine.model_engine import Engine
from akidb_mlx.engine.residency import Keep
from akidb_mlx.errors import AkiDBMLXError, BackendError, ClosedError
from akidb_mlx.model.host_rows import RowForm
from akidb_mlx.pipeline.model_engines import (
    LOCATION_FIELDS,
    join_engine,
    make_engine,
    share_out,
    start_loading,
    tokenizer_maker,
)
from akidb_mlx.pipeline.progress import above_bars
from akidb_mlx.pipeline.tokenizer import Tokenizer

__all__ = ["EMBEDDER", "TRUNCATED", "AnyLoadedModel", "Kind", "LoadedModel", "acquire", "measure_float32"]

_log = logging.getLogger(__name__)

TRUNCATED = "truncated"
"""The kind of warning that says that texts are cut."""

C = TypeVar("C", bound=ModelConfig)
R = TypeVar("R", bound=AnyRecipe)
# How long a model without a user stays where nobody says it: objects that are made for each request load it once.
_KEPT_S = 60.0


@dataclass(frozen=True)
class Kind(Generic[C, R]):
    """A kind of model: how its recipe is read, and which settings need no loaded model of their own."""

    name: str
    read_recipe: Callable[[C, Resolved], R]
    on_the_host: frozenset[str]
    """Settings that do not change the loaded model; embedders that differ only in these share it."""


EMBEDDER: Kind[EmbedderConfig, Recipe] = Kind(
    "embedder",
    read_recipe,
    frozenset({"normalize", "truncate_dim", "query_prompt", "document_prompt", "on_overlong", "task", "calibration"}),
)


@dataclass(eq=False)
class LoadedModel(Generic[R]):
    """One engine with its tokenizer, and how many embedders or others use it."""

    key: Hashable
    recipe: R
    tokenizer: Tokenizer
    side_tokenizers: Mapping[Side, Tokenizer]
    """Of queries and documents, where these have limits of their own."""
    engine: Engine
    form: RowForm
    """What this kind's rows are."""
    dimension: int
    """Width of the rows, before truncation."""
    parameter_bytes: int
    give_back: Callable[[], None]
    """What closes the engine, or this kind's part of it."""
    make_tokenizer: Callable[[int | None], Tokenizer]
    """Of a limit, from the files."""
    stamps: Stamps
    """Of the files as they were before they were read."""
    wants: Collection[str] = ()
    """Its head, where the engine computes several."""
    keeps: Counter[float] = field(default_factory=Counter)
    """Of its users, how long each has the weights stay without a call (seconds)."""
    warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Be told when the weights are freed."""
        if self.engine.residence is not None:
            self.engine.residence.on_freed.append(self._freed)

    @property
    def users(self) -> int:
        """How many use it."""
        return self.keeps.total()

    @property
    def tokenizers(self) -> tuple[Tokenizer, ...]:
        """That of all texts, then those of sides."""
        return (self.tokenizer, *self.side_tokenizers.values())

    def expect_long_texts(self) -> None:
        """Do not warn of texts that are cut: whoever uses it now sends such on purpose."""
        self.warned.add(TRUNCATED)

    def warn_once(self, message: str, kind: str | None = None) -> None:
        """Log a warning, but one of a kind only once for this model."""
        kind = kind or message
        if kind not in self.warned:
            self.warned.add(kind)
            with above_bars():
                _log.warning(message)

    def share(self, keep_alive: float | None) -> None:
        """One user more; ClosedError where the last one has gone."""
        with _lock:
            if not self.users:
                raise ClosedError("the model is closed; load it again")
            self.keeps[_seconds(keep_alive)] += 1
            self.engine.keep_for(self, Keep(max(self.keeps)))

    @property
    def recipe_of_files(self) -> R:
        """The recipe, where the files are still those that were loaded; CheckpointError otherwise."""
        self.stamps.refuse_changed(self.recipe.checkpoint.name)
        return self.recipe

    def release(self, keep_alive: float | None, *, close: bool = True) -> None:
        """One user less; the last one closes the engine at once, or leaves it for a while to who comes next."""
        with _lock:
            self.keeps[_seconds(keep_alive)] -= 1
            self.keeps += Counter()  # without zeros
            if not self.users and not close:
                self.engine.keep_for(self, Keep(_KEPT_S if keep_alive is None else keep_alive, held=False))
                close = self.engine.model is None
            elif self.users:
                self.engine.keep_for(self, Keep(max(self.keeps)))
        if close:
            self.close_unused()

    def keep_for(self, before: float | None, now: float | None) -> None:
        """A user says anew how long the weights stay without a call (seconds)."""
        with _lock:
            self.keeps[_seconds(before)] -= 1
            self.keeps[_seconds(now)] += 1
            self.keeps += Counter()
            self.engine.keep_for(self, Keep(max(self.keeps)))

    def close_unused(self) -> None:
        """Close the engine unless somebody uses it."""
        with _lock:
            future = _loaded.get(self.key)
            if self.users or future is None or not future.done() or future.result() is not self:
                return
            del _loaded[self.key]
        if self.engine.residence is not None:
            self.engine.residence.on_freed.remove(self._freed)
        self.engine.keep_for(self, None)
        for tokenizer in self.tokenizers:
            tokenizer.close()
        self.give_back()

    def _freed(self) -> None:
        """The weights are: nor are the tokenizers wanted, and without a user nothing at all. On a device thread."""
        for tokenizer in self.tokenizers:
            tokenizer.sleep(self._tokenizer_again)
        if not self.users:
            threading.Thread(target=self.close_unused, name="akidb-mlx-close").start()  # it waits for this one

    def _tokenizer_again(self, limit: int | None) -> Tokenizer:
        self.stamps.refuse_changed(self.recipe.checkpoint.name)
        return self.make_tokenizer(limit)


AnyLoadedModel = LoadedModel[Any]
_lock = threading.Lock()
_loaded: dict[Hashable, Future[AnyLoadedModel]] = {}


def acquire(config: C, kind: Kind[C, R]) -> LoadedModel[R]:
    """The model for these settings, loaded by the first caller while the others wait; counts one user."""
    source = resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    not_of_the_model = kind.on_the_host | LOCATION_FIELDS | {"keep_alive"}
    settings = tuple((name, value) for name, value in config if name not in not_of_the_model)
    key: Hashable = (kind.name, source.path.resolve(), settings)
    while True:
        with _lock:
            future = _loaded.get(key)
            first = future is None
            if future is None:
                future = _loaded[key] = Future()
        if first:
            try:
                stamps = Stamps.of(source.path)
                future.set_result(_load(key, config, kind.read_recipe(config, source), kind.name, stamps))
            except BaseException as error:
                with _lock:
                    _loaded.pop(key, None)
                future.set_exception(error)
                raise
        loaded = future.result()
        if not first and not loaded.users and loaded.stamps.changed():
            loaded.close_unused()  # left by its last user, and the files are others by now
            continue
        with _lock:
            if not loaded.engine.closed and _loaded.get(key) is future:
                loaded.keeps[_seconds(config.keep_alive)] += 1
                loaded.engine.keep_for(loaded, Keep(max(loaded.keeps)))
                return loaded


def _seconds(keep_alive: float | None) -> float:
    return math.inf if keep_alive is None else keep_alive


def measure_float32(device: Device) -> float:
    """Largest relative error of a float32 product on the device, as it computes in this process."""

    def measure() -> float:
        with device.stream():
            return float32_error()

    return DEVICE_THREADS.run(measure).result()


def _warn_of_lower_precision(device: Device) -> None:
    """MLX decides at its first product: another library's may have come before `choose_device` asked for float32."""
    error = measure_float32(device)
    if error > FLOAT32_ERROR:
        warn_once(
            f"{describe_error(error)}. Until then vectors of float32 models differ from sentence-transformers' by up "
            "to 1e-3: another library used MLX before a model was loaded, or the variable asks for it"
        )


def _load(key: Hashable, config: ModelConfig, recipe: R, kind: str, stamps: Stamps) -> LoadedModel[R]:
    checkpoint, device = recipe.checkpoint, recipe.device
    if DEVICE_THREADS.inherits_streams and not device.survives_fork:
        raise BackendError(FORKED)
    joint = has_joint_heads(checkpoint.path)
    loading = None if joint else start_loading(config, recipe, recipe.head)
    if device.kind != "cpu" and device.dtype(checkpoint.float_dtype, config.dtype) == "float32":
        _warn_of_lower_precision(device)
    try:
        make_tokenizer = tokenizer_maker(checkpoint, config)  # meanwhile, in this thread
        tokenizer = share_out(make_tokenizer(recipe.max_seq_length), config, device)
        side_tokenizers = {
            side: share_out(make_tokenizer(length), config, device) for side, length in recipe.side_lengths.items()
        }
    except AkiDBMLXError:
        if loading is not None:
            loading.result()  # a model that is not computed at all is what to tell
        raise
    if loading is None:
        engine, head, give_back, size = join_engine(config, recipe, kind, stamps)
    else:
        network = loading.result()
        # Last, for the threads know the engine from then on: nothing may fail after it.
        engine = make_engine(config, recipe, network, recipe.head, stamps)
        head, give_back, size = network.head, engine.close, network.parameter_bytes()
    return LoadedModel(
        key,
        recipe,
        tokenizer,
        side_tokenizers,
        engine,
        head,
        head.width,
        size,
        give_back,
        lambda limit: tokenizer_maker(checkpoint, config)(limit),
        stamps,
        (kind,) if joint else (),
    )


def _after_fork() -> None:
    """In a forked child: a load that another thread had begun never ends here."""
    _lock.release()
    for key, future in list(_loaded.items()):
        if not future.done():
            del _loaded[key]
        elif future.exception() is None:
            for tokenizer in future.result().tokenizers:
                tokenizer.after_fork()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)
