"""Scale out on Ray (extra `[ray]`): actors that load the model once and embed batch after batch.

Only the configuration travels; each actor finds and loads the model by it. Rows keep their other columns, ids
among them, but Ray Data does not keep their order.
"""

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.corpus.encoders import load_encoder
from akidb_mlx.corpus.forms import form_of
from akidb_mlx.errors import AkiDBMLXError, BackendError, ConfigError, InputError

try:
    import ray
    import ray.data
except ImportError as missing:
    raise ConfigError(f'scaling out needs Ray: pip install "akidb-mlx[ray]" ({missing})') from None

__all__ = ["RayEmbedder", "RayEncoder", "actor_options", "embed_dataset"]

# Batches that an actor has waiting, so that it never waits for the next.
_WAITING = 2
# Chunks per actor that are under way or wait for an earlier one of a slower actor.
_AHEAD = 4
_COUNTERS = ("tokens", "truncated_texts")


class RayEmbedder:
    """A callable class for `Dataset.map_batches`: adds a column of vectors, made with the document prompt.

    It takes and gives Arrow tables (a column of fixed-size float32 lists) or dicts of NumPy arrays (a 2-D array).
    """

    def __init__(
        self,
        config: ModelConfig,
        text_column: str = "text",
        output_column: str = "embedding",
        error_column: str | None = None,
        kind: str = "dense",
    ) -> None:
        """Load the model. A text that cannot be embedded is an error, or with `error_column` told there.

        `kind`: dense, sparse, multi or hybrid; of the last three the columns have the names that `embed` gives them.
        """
        self._embedder = load_encoder(config, kind)
        self._form = form_of(self._embedder.info(), self._embedder.dimension, kind, "float32")
        self._text_column = text_column
        self._output_column = output_column
        self._error_column = error_column

    def __call__(self, batch: Any) -> Any:
        """The batch with its vectors; a text that has none gets null (NaN in NumPy) and its reason."""
        self._check(batch)
        texts = (
            batch[self._text_column].to_pylist() if isinstance(batch, pa.Table) else batch[self._text_column].tolist()
        )
        rows, errors, _ = self.encode(texts)
        if errors and self._error_column is None:
            place, reason = min(errors.items())
            raise InputError(f"row {place} of a batch, {texts[place]!r:.80}: {reason}; set error_column to go on")
        reasons = [errors.get(place) for place in range(len(texts))]
        if isinstance(batch, pa.Table):
            missing = pa.array([reason is not None for reason in reasons])
            if self._form.kind == "dense":
                column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1], mask=missing)
                batch = batch.append_column(self._output_column, column)
            else:
                columns = self._form.columns(list(self._form.rows(rows)))
                for field in self._form.fields():
                    values = pc.if_else(missing, pa.nulls(len(missing), field.type), columns[field.name])
                    batch = batch.append_column(field, values)
            if self._error_column is not None:
                batch = batch.append_column(self._error_column, pa.array(reasons, pa.string()))
            return batch
        told = {} if self._error_column is None else {self._error_column: np.array(reasons, object)}
        return {**batch, self._output_column: rows, **told}

    def _check(self, batch: Any) -> None:
        if not isinstance(batch, pa.Table | dict):
            raise TypeError(f'a batch is a {type(batch).__name__}; use batch_format="pyarrow" or "numpy"')
        columns = batch.column_names if isinstance(batch, pa.Table) else list(batch)
        if self._text_column not in columns:
            raise InputError(f"no column {self._text_column!r}; the dataset has {', '.join(columns)}")
        own = (self._output_column,) if self._form.kind == "dense" else self._form.names
        if self._form.kind != "dense" and isinstance(batch, dict):
            raise TypeError(f'rows of kind {self._form.kind} are Arrow\'s; use batch_format="pyarrow"')
        for name in (*own, self._error_column):
            if name in columns:
                raise InputError(f"the dataset has a column {name!r} already; name another for what is added")

    def encode(self, texts: Sequence[str | None]) -> tuple[Any, dict[int, str], dict[str, int]]:
        """A row for each text, why some are NaN or empty by place, and this actor's counters so far."""
        errors = {place: "no text" for place, text in enumerate(texts) if not isinstance(text, str)}
        places = [place for place in range(len(texts)) if place not in errors]
        rows: list[Any] = [None] * len(texts)

        def refuse(place: int, error: AkiDBMLXError) -> None:
            errors[places[place]] = str(error)

        wanted = (text for text in texts if isinstance(text, str))
        done = 0
        for chunk in self._embedder.encode_stream(wanted, side="document", on_error=refuse):
            for place, row in zip(places[done : done + len(chunk)], self._form.rows(chunk), strict=True):
                rows[place] = row
            done += len(chunk)
        stats = self._embedder.stats()
        return self._form.together(rows), errors, {name: stats[name] for name in _COUNTERS}

    def describe(self) -> dict[str, Any]:
        """What the driver wants to know of the model."""
        embedder = self._embedder
        return {"dimension": embedder.dimension, "fingerprint": embedder.fingerprint, "info": embedder.info()}


def actor_options(config: ModelConfig, actors: int | None = None) -> tuple[int, dict[str, Any]]:
    """How many actors, and what each asks of Ray: one per GPU; without GPUs one per machine, with its cores shared."""
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's telemetry is on by default
        ray.init(log_to_driver=False, logging_level="ERROR")
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0)) if config.device != "cpu" else 0
    if actors is not None and (isinstance(actors, bool) or actors < 1):
        raise ConfigError(f"actors is {actors}; at least one must embed")
    if gpus:
        if actors is not None and actors > gpus:
            raise ConfigError(f"actors is {actors}, but the cluster has {gpus} GPUs: one actor per device")
        return actors or gpus, {"num_gpus": 1}
    cores, machines = has.get("CPU", 1), sum(node["Alive"] for node in ray.nodes())
    actors = actors or machines
    threads = str(max(1, int(cores // actors)))
    # A core is left for the tasks that read and write; Ray would wait for ever without.
    share = max(0.01, round((cores - 1) / actors, 2))
    return actors, {"num_cpus": share, "runtime_env": {"env_vars": {"OPENBLAS_NUM_THREADS": threads}}}


def embed_dataset(
    ds: "ray.data.Dataset",
    config: ModelConfig,
    *,
    text_column: str = "text",
    output_column: str = "embedding",
    error_column: str | None = None,
    kind: str = "dense",
    actors: int | None = None,
    batch_size: int = 1024,
    **map_batches: Any,
) -> "ray.data.Dataset":
    """The dataset with a column of vectors (fixed-size float32 lists), embedded lazily by a pool of actors.

    The order of rows may change: carry an id. `actors`: None is one per device. `map_batches` goes to Ray as it is.
    `kind` sparse, multi or hybrid wants that kind's configuration (a hybrid's is EmbedderConfig) and gives its columns.

    Raises:
        ConfigError: more actors than GPUs. ModelNotFoundError: looked for here, before any actor starts.
    """
    resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    actors, options = actor_options(config, actors)
    return ds.map_batches(
        RayEmbedder,
        fn_constructor_kwargs={
            "config": config,
            "text_column": text_column,
            "output_column": output_column,
            "error_column": error_column,
            "kind": kind,
        },
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=actors),
        **(options | map_batches),
    )


class RayEncoder:
    """Several actors with the methods that `akidb_mlx.corpus` wants of an embedder; rows come back in order."""

    def __init__(self, config: ModelConfig, actors: int | None = None, kind: str = "dense") -> None:
        """Start the actors and wait until the first has loaded the model."""
        resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
        self.config = config
        actors, options = actor_options(config, actors)
        # A machine that is lost costs a restart, not the run.
        options |= {"max_restarts": -1, "max_task_retries": 3, "max_concurrency": _WAITING}
        remote = ray.remote(**options)(RayEmbedder)
        self._actors = [remote.remote(config, kind=kind) for _ in range(actors)]
        self._facts: dict[str, Any] = _get(self._actors[0].describe.remote())
        self._stats = [dict.fromkeys(_COUNTERS, 0) for _ in self._actors]

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(self._facts["dimension"])

    @property
    def fingerprint(self) -> str:
        """The model's, as an actor sees it."""
        return str(self._facts["fingerprint"])

    def info(self) -> dict[str, Any]:
        """An actor's `Embedder.info()`."""
        return dict(self._facts["info"])

    def stats(self) -> dict[str, Any]:
        """Tokens and truncated texts of all actors."""
        return {name: sum(stats[name] for stats in self._stats) for name in _COUNTERS}

    def encode_stream(
        self,
        texts: Iterable[str],
        chunk_size: int = 1024,
        *,
        side: str = "document",
        on_error: Callable[[int, AkiDBMLXError], None] | None = None,
    ) -> Iterator[Any]:
        """As `Embedder.encode_stream` on the document side; a few chunks an actor are read ahead."""
        source = iter(texts)
        waiting: deque[tuple[int, Any]] = deque()
        working: dict[Any, int] = {}
        done, more = 0, True
        while True:
            while more and len(waiting) < _AHEAD * len(self._actors):
                turn = self._free(working)
                if turn is None:
                    break
                chunk = list(itertools.islice(source, chunk_size))
                more = bool(chunk)
                if more:
                    reference = self._actors[turn].encode.remote(chunk)
                    working[reference] = turn
                    waiting.append((turn, reference))
            if not waiting:
                return
            if more and waiting[0][1] in working and len(waiting) < _AHEAD * len(self._actors):
                _forget(working, ray.wait(list(working))[0])  # whoever is ready first gets the next chunk
                continue
            turn, reference = waiting.popleft()
            rows, errors, counters = _get(reference)
            working.pop(reference, None)
            self._stats[turn] = {name: max(count, self._stats[turn][name]) for name, count in counters.items()}
            for place, reason in sorted(errors.items()):
                if on_error is None:
                    raise InputError(reason)
                on_error(done + place, InputError(reason))
            done += len(rows)
            yield rows

    def _free(self, working: dict[Any, int]) -> int | None:
        """The actor with the least to do; None where each has as much as it should."""
        if working:
            _forget(working, ray.wait(list(working), num_returns=len(working), timeout=0)[0])
        loads = Counter(working.values())
        turn = min(range(len(self._actors)), key=lambda actor: loads[actor])
        return turn if loads[turn] < _WAITING else None

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _forget(working: dict[Any, int], ready: Sequence[Any]) -> None:
    for reference in ready:
        del working[reference]


def _get(reference: Any) -> Any:
    """An actor's answer; our own errors as they are, others as BackendError."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AkiDBMLXError):
            raise error.cause from None
        raise BackendError(f"an actor failed: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        raise BackendError(f"an actor was lost: {' '.join(str(error).split())[:300]}") from error
