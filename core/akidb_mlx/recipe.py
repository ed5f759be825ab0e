"""What both adapters stand on: an embedder that loads on first use, and the recipe kept beside an index."""

import asyncio
import json
import os
import pickle
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Protocol, cast

from numpy.typing import ArrayLike
from pydantic import BaseModel

from akidb_mlx import vectors
from akidb_mlx.config import EmbedderConfig, suggestion
from akidb_mlx.embedder import Embedder, EmbedderProtocol
from akidb_mlx.errors import ConfigError
from akidb_mlx.vectors import Embeddings

__all__ = [
    "RECIPE_FILE",
    "RECIPE_KEY",
    "LazyEmbedder",
    "check_recipe",
    "ensure_recipe",
    "own_fields",
    "recipe_metadata",
    "recipe_of",
    "save_recipe",
    "settle",
]

RECIPE_FILE: Final = "akidb_mlx_recipe.json"
RECIPE_KEY: Final = "akidb_mlx"
# What `Embedder.info()` says of the recipe in words; the fingerprint decides, these explain.
_FACTS: Final = (
    "model_name",
    "revision",
    "architecture",
    "pooling",
    "dense",
    "normalize",
    "prompts",
    "query_prompt",
    "document_prompt",
    "default_prompt_name",
    "max_seq_length",
    "quantization",
)
# Rows that become Python floats at a time in an event loop: a few milliseconds' work.
_ROWS_AT_A_TIME: Final = 256


class LazyEmbedder:
    """A configuration that becomes an embedder on first use, once, whatever thread or event loop asks.

    Vectors come as lists of Python floats, which is what the frameworks take. Documents wait where the engine's
    queue is full.
    """

    def __init__(self, source: EmbedderConfig | EmbedderProtocol) -> None:
        """Load nothing yet; an embedder is taken as it is."""
        self.config: EmbedderConfig | None
        self._embedder: EmbedderProtocol | None = None
        if isinstance(source, EmbedderConfig):
            self.config = source
        else:
            config = getattr(source, "config", None)
            self.config = config if isinstance(config, EmbedderConfig) else None
            self._embedder = source
        # By process: a load that another thread had begun never ends in a forked child.
        self._loads: dict[int, Future[EmbedderProtocol]] = {}

    def load(self) -> EmbedderProtocol:
        """The embedder; the first caller loads it while the others wait."""
        if self._embedder is not None:
            return self._embedder
        future, is_mine = self._claim()
        if is_mine:
            self._fulfil(future)
        return future.result()

    async def aload(self) -> EmbedderProtocol:
        """`load` in a thread of its own, which leaves the event loop and its executor free."""
        if self._embedder is not None:
            return self._embedder
        future, is_mine = self._claim()
        if is_mine:
            threading.Thread(target=self._fulfil, args=(future,), name="akidb-mlx-load", daemon=True).start()
        return await asyncio.wrap_future(future)

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        row: list[float] = self.load().encode_query([text])[0].tolist()
        return row

    def embed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[list[float]]:
        """The vectors of documents, in order; [] for none, without loading anything."""
        if _nothing(texts):
            return []
        embedder = self.load()
        if isinstance(embedder, Embedder):
            rows = embedder.encode_document(texts, show_progress=show_progress, wait=True)
        else:
            rows = embedder.encode_document(texts, show_progress=show_progress)
        lists: list[list[float]] = rows.tolist()
        return lists

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        embedder = await self.aload()
        row: list[float] = (await embedder.aencode_query([text]))[0].tolist()
        return row

    async def aembed_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        if _nothing(texts):
            return []
        embedder = await self.aload()
        if isinstance(embedder, Embedder):
            rows = await embedder.aencode_document(texts, show_progress=show_progress, wait=True)
        else:
            rows = await embedder.aencode_document(texts, show_progress=show_progress)
        return await _as_lists(rows)

    def validate(self, vectors_: ArrayLike, *, unit_length: bool = False) -> Embeddings:
        """Vectors from elsewhere as (n, dimension) float32; InputError names the row that cannot be taken."""
        return vectors.validate(vectors_, self.load().dimension, unit_length=unit_length)

    def picklable_config(self) -> EmbedderConfig:
        """What it can be made from again; PicklingError where that is unknown."""
        if self.config is None:
            raise pickle.PicklingError(
                f"embedder={type(self._embedder).__name__} has no configuration from which another process "
                "could make it again; give a model in place of an embedder"
            )
        return self.config

    def _claim(self) -> tuple["Future[EmbedderProtocol]", bool]:
        """This process's load, and whether the caller is the one to do it."""
        mine: Future[EmbedderProtocol] = Future()
        mine.set_running_or_notify_cancel()  # so that a waiter that is cancelled does not cancel it for the others
        future = self._loads.setdefault(os.getpid(), mine)
        return future, future is mine

    def _fulfil(self, future: "Future[EmbedderProtocol]") -> None:
        assert self.config is not None
        try:
            self._embedder = Embedder.load(self.config)
        except BaseException as error:
            del self._loads[os.getpid()]
            future.set_exception(error)
        else:
            future.set_result(self._embedder)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LazyEmbedder) or self.config is None:
            return self is other
        return self.config == other.config

    def __hash__(self) -> int:
        return id(self) if self.config is None else hash(self.config)

    def __str__(self) -> str:
        if self.config is None:
            return f"embedder={type(self._embedder).__name__}"
        plain = EmbedderConfig.model_fields
        said = [f"{name}={value!r}" for name, value in self.config if name != "model" and value != plain[name].default]
        return ", ".join([f"model={self.config.model!r}", *said])


def own_fields(adapter: type[BaseModel]) -> frozenset[str]:
    """The fields of an adapter that are the framework's business: neither the configuration nor the embedder."""
    return frozenset(adapter.model_fields) - frozenset(EmbedderConfig.model_fields) - {"model_name", "embedder"}


def settle(given: Mapping[str, Any], own: Collection[str]) -> LazyEmbedder:
    """A lazy embedder from an adapter's arguments: `embedder`, or `model` (`model_name`) and EmbedderConfig's fields.

    `own` are the names of its other arguments (`own_fields`).

    Raises:
        ConfigError: an unknown name, a bad value, or an embedder together with settings.
        TypeError: an embedder that is none.
    """
    fields = {name: value for name, value in given.items() if name not in own}
    embedder = fields.pop("embedder", None)
    known = [*EmbedderConfig.model_fields, *own, "embedder", "model_name"]
    for name in fields:
        if name not in known:
            hint = suggestion(name, known) or ";"
            raise ConfigError(f"unknown argument {name}{hint} allowed: {', '.join(sorted(known))}")
    if "model" in fields and "model_name" in fields:
        raise ConfigError("model and model_name mean the same; keep one")
    if embedder is None:
        return LazyEmbedder(EmbedderConfig(**{_field(name): value for name, value in fields.items()}))
    if fields:
        raise ConfigError(f"embedder= brings its own settings; leave out {', '.join(sorted(fields))}, or embedder=")
    for method in ("encode_query", "encode_document", "aencode_query", "aencode_document"):
        if isinstance(embedder, type) or not callable(getattr(embedder, method, None)):
            raise TypeError(f"embedder is no embedder but {embedder!r:.80} (no {method}; see EmbedderProtocol)")
    return LazyEmbedder(embedder)


class Adapter(Protocol):
    """What an adapter offers here."""

    def load(self) -> EmbedderProtocol: ...


def recipe_of(source: EmbedderProtocol | Adapter) -> dict[str, Any]:
    """What decides an embedder's (or adapter's) vectors: the fingerprint, and in words. Loads the model."""
    is_embedder = callable(getattr(source, "encode_query", None))
    embedder = cast(EmbedderProtocol, source) if is_embedder else cast(Adapter, source).load()
    facts: dict[str, Any] = {"model_name": type(embedder).__name__}
    if isinstance(embedder, Embedder):
        info = embedder.info()
        facts = {name: info[name] for name in _FACTS} | {"dtype": embedder.config.dtype}
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return {"fingerprint": embedder.fingerprint, "dimension": embedder.dimension, **plain}


def recipe_metadata(source: EmbedderProtocol | Adapter) -> dict[str, str]:
    """The recipe as one string under the key `akidb_mlx`, for the metadata of a collection or a table."""
    return {RECIPE_KEY: json.dumps(recipe_of(source), sort_keys=True)}


def check_recipe(
    stored: str | bytes | Mapping[Any, Any] | None, source: EmbedderProtocol | Adapter, where: str = "the index"
) -> None:
    """Compare the recipe (or the metadata that holds it) stored with an index to the one that would serve it.

    Raises:
        ConfigError: they differ, and in what; or nothing is stored.
    """
    if isinstance(stored, Mapping) and "fingerprint" not in stored:
        stored = stored.get(RECIPE_KEY, stored.get(RECIPE_KEY.encode()))
    if not stored:
        raise ConfigError(f"{where} does not say with which recipe its vectors were made")
    try:
        old = dict(stored) if isinstance(stored, Mapping) else json.loads(stored)
        fingerprint = old["fingerprint"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"the recipe of {where} cannot be read") from None
    new = recipe_of(source)
    if fingerprint != new["fingerprint"]:
        raise ConfigError(
            f"the vectors of {where} were made with another recipe: {_difference(old, new)}. Searching it with this "
            "one gives wrong neighbours: go back to its settings, or embed the documents again into a new index"
        )


def ensure_recipe(folder: str | os.PathLike[str], source: EmbedderProtocol | Adapter) -> None:
    """Call it before opening an index in `folder`: a new one gets the recipe beside it, an old one must match.

    Raises:
        ConfigError: the folder's index was made with another recipe, or with one that nobody wrote down.
    """
    folder = Path(folder)
    file = folder / RECIPE_FILE
    if file.is_file():
        check_recipe(file.read_text(encoding="utf-8"), source, str(folder))
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} holds files, but no {RECIPE_FILE}: if the vectors in it were made with exactly these settings, "
            "say so once with save_recipe; else embed the documents again into a new folder"
        )
    else:
        save_recipe(folder, source)


def save_recipe(folder: str | os.PathLike[str], source: EmbedderProtocol | Adapter) -> None:
    """Write down that the index in `folder` holds (or will hold) vectors of this recipe, whatever stood there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(recipe_of(source), indent=1, sort_keys=True, ensure_ascii=False)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", encoding="utf-8", delete=False) as stream:
        stream.write(text + "\n")
    Path(stream.name).replace(folder / RECIPE_FILE)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = [name for name in dict.fromkeys([*new, *old]) if name != "fingerprint"]
    parts = [f"{name} {old.get(name)!r} → {new.get(name)!r}" for name in names if old.get(name) != new.get(name)]
    return "; ".join(parts) or "the same settings, but other weights, tokenizer or architecture"


def _field(name: str) -> str:
    return "model" if name == "model_name" else name


def _nothing(texts: object) -> bool:
    return isinstance(texts, list | tuple) and not texts


async def _as_lists(rows: Embeddings) -> list[list[float]]:
    """Rows as Python floats, giving the event loop its turn in between."""
    lists: list[list[float]] = []
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        if start:
            await asyncio.sleep(0)
        lists += rows[start : start + _ROWS_AT_A_TIME].tolist()
    return lists
