"""A loaded model and who uses it: equal settings share one, loaded once, dropped with its last user."""

import logging
import os
import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from akidb_mlx.checkpoint.heads import HeadFacts, JointHead
from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.joint_heads import has_joint_heads
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.options import ModelOptions
from akidb_mlx.device.choice import FORKED, Device
from akidb_mlx.device.precision import FLOAT32_ERROR, describe_error, float32_error
from akidb_mlx.effective.recipe import AnyRecipe, Recipe, read_recipe, warn_once
from akidb_mlx.engine.companions import Companions
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.engine.model_engine import Engine
from akidb_mlx.engine.scheduler import Scheduler
from akidb_mlx.errors import AkiDBMLXError, BackendError
from akidb_mlx.model.host_rows import RowForm
from akidb_mlx.pipeline.joint_engines import join
from akidb_mlx.pipeline.progress import above_bars
from akidb_mlx.pipeline.tokenizer import Tokenizer

if TYPE_CHECKING:
    from akidb_mlx.model.heads.base import Head
    from akidb_mlx.model.network import Network

__all__ = ["EMBEDDER", "TRUNCATED", "AnyLoadedModel", "Kind", "LoadedModel", "acquire", "measure_float32"]

_log = logging.getLogger(__name__)

TRUNCATED = "truncated"
"""The kind of warning that says that texts are cut."""

C = TypeVar("C", bound=ModelConfig)
R = TypeVar("R", bound=AnyRecipe)
# Settled once the files are found.
_LOCATION_FIELDS = frozenset({"model", "revision", "cache_dir", "local_files_only"})


@dataclass(frozen=True)
class Kind(Generic[C, R]):
    """A kind of model: how its recipe is read, and which settings need no loaded model of their own."""

    name: str
    read_recipe: Callable[[C, Resolved], R]
    on_the_host: frozenset[str]
    """Fields that each face applies by itself."""


EMBEDDER: Kind[EmbedderConfig, Recipe] = Kind(
    "embedder",
    read_recipe,
    frozenset({"normalize", "truncate_dim", "query_prompt", "document_prompt", "on_overlong"}),
)


@dataclass(eq=False)
class LoadedModel(Generic[R]):
    """One engine with its tokenizer, and how many faces use it."""

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
    """What its last user calls."""
    wants: Collection[str] = ()
    """Its head, where the engine computes several."""
    users: int = 0
    warned: set[str] = field(default_factory=set)

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

    def release(self) -> None:
        """One user less; the last one closes the engine."""
        with _lock:
            self.users -= 1
            if self.users:
                return
            _loaded.pop(self.key, None)
        self.give_back()


AnyLoadedModel = LoadedModel[Any]
_lock = threading.Lock()
_loaded: dict[Hashable, Future[AnyLoadedModel]] = {}


def acquire(config: C, kind: Kind[C, R]) -> LoadedModel[R]:
    """The model for these settings, loaded by the first caller while the others wait; counts one user."""
    source = resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    settings = tuple((name, value) for name, value in config if name not in kind.on_the_host | _LOCATION_FIELDS)
    key: Hashable = (kind.name, source.path.resolve(), settings)
    while True:
        with _lock:
            future = _loaded.get(key)
            first = future is None
            if future is None:
                future = _loaded[key] = Future()
        if first:
            try:
                future.set_result(_load(key, config, kind.read_recipe(config, source), kind.name))
            except BaseException as error:
                with _lock:
                    _loaded.pop(key, None)
                future.set_exception(error)
                raise
        loaded = future.result()
        with _lock:
            if not loaded.engine.closed and _loaded.get(key) is future:
                loaded.users += 1
                return loaded


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


def _load(key: Hashable, config: ModelConfig, recipe: R, kind: str) -> LoadedModel[R]:
    checkpoint, device = recipe.checkpoint, recipe.device
    if DEVICE_THREADS.inherits_streams and not device.survives_fork:
        raise BackendError(FORKED)
    joint = has_joint_heads(checkpoint.path)
    loading = None if joint else _start_loading(config, recipe, recipe.head)
    if device.kind != "cpu" and device.dtype(checkpoint.float_dtype, config.dtype) == "float32":
        _warn_of_lower_precision(device)
    try:
        make_tokenizer = _tokenizer_maker(checkpoint, config)  # meanwhile, in this thread
        tokenizer = make_tokenizer(recipe.max_seq_length)
        side_tokenizers = {side: make_tokenizer(length) for side, length in recipe.side_lengths.items()}
    except AkiDBMLXError:
        if loading is not None:
            loading.result()  # a model that is not computed at all is what to tell
        raise
    if loading is None:
        engine, head, give_back = _join(config, recipe, kind)
    else:
        # Last, for the threads know the engine from then on: nothing may fail after it.
        engine = _make_engine(config, recipe, loading.result())
        head, give_back = engine.live_model.head, engine.close
    return LoadedModel(
        key,
        recipe,
        tokenizer,
        side_tokenizers,
        engine,
        head,
        head.width,
        engine.live_model.parameter_bytes(),
        give_back,
        (kind,) if joint else (),
    )


def _start_loading(config: ModelConfig, recipe: AnyRecipe, head: HeadFacts) -> "Future[Network]":
    device = recipe.device

    def load() -> "Network":
        from akidb_mlx.model.loading import load_model

        limit = device.cache_limit_mb if config.cache_limit_mb is None else config.cache_limit_mb
        DEVICE_THREADS.set_cache_limit(limit)
        with device.stream():
            return load_model(recipe.checkpoint, head, device, config.dtype)

    return DEVICE_THREADS.run(load)


def _make_engine(
    config: ModelConfig, recipe: AnyRecipe, model: "Network", companions: Companions | None = None
) -> Engine:
    device, limits = recipe.device, [recipe.max_seq_length, *recipe.side_lengths.values()]
    scheduler = Scheduler(
        config.max_batch_tokens or device.max_batch_tokens,
        config.query_latency_target_ms / 1000,
        None if None in limits else max(length for length in limits if length is not None),
        device.shapes,
        lanes=max(1, device.cpu_lanes),
        full_batch_s=device.full_batch_ms / 1000,
        first_batch_tokens=device.first_batch_tokens,
        cost=model.activation_bytes,
        max_rows=model.head.max_rows,
    )
    return Engine(
        model,
        scheduler,
        config.max_queued_tokens,
        survives_fork=device.survives_fork,
        cpu_lanes=device.cpu_lanes,
        plans_shapes=device.plans_shapes,
        memory=device.memory,
        cost=model.activation_bytes,
        form=model.head,
        companions=companions,
    )


def _join(config: ModelConfig, recipe: AnyRecipe, kind: str) -> "tuple[Engine, Head, Callable[[], None]]":
    """The engine that all kinds of this checkpoint with these settings share, with this kind's head in it."""

    def make_engine() -> Engine:
        return _make_engine(config, recipe, _start_loading(config, recipe, JointHead()).result(), Companions())

    def load(network: "Network") -> "Head":
        from akidb_mlx.model.loading import load_own_head

        with recipe.device.stream():
            return load_own_head(network, recipe.head, recipe.checkpoint)

    own = [name for name in ModelOptions.model_fields if name not in _LOCATION_FIELDS | {"on_overlong"}]
    key = (recipe.checkpoint.path.resolve(), *(getattr(config, name) for name in own))
    return join(key, kind, make_engine, load)


def _tokenizer_maker(checkpoint: ModelFacts, config: ModelConfig) -> Callable[[int | None], Tokenizer]:
    """Limit → tokenizer."""
    rebuilt = checkpoint.rebuilt_tokenizer(config.tokenizer)
    return partial(
        Tokenizer,
        checkpoint.tokenizer_file,
        do_lower_case=checkpoint.do_lower_case,
        truncation_side=checkpoint.truncation_side or rebuilt.truncation_side,
        state=rebuilt.state,
        split_special_tokens=rebuilt.split_special_tokens,
        vocab_size=checkpoint.config.get("vocab_size"),
        **checkpoint.tokenizer_rules,
    )


def _after_fork() -> None:
    """In a forked child: a load that another thread had begun never ends here."""
    _lock.release()
    for key in [key for key, future in _loaded.items() if not future.done()]:
        del _loaded[key]


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)
