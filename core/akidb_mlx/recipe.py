"""An index that knows its recipe: what decides its vectors is kept beside them, and compared before it is opened."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

from akidb_mlx.effective.facts import FACTS, RecipeFact
from akidb_mlx.effective.fingerprint import combined
from akidb_mlx.effective.multi_vector_recipe import MULTI_VECTOR_FACTS
from akidb_mlx.effective.sparse_recipe import SPARSE_FACTS
from akidb_mlx.embedder import Embedder, EmbedderProtocol
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder, MultiVectorEmbedderProtocol
from akidb_mlx.remote.face import RemoteFace
from akidb_mlx.sparse_embedder import SparseEmbedder, SparseEmbedderProtocol

__all__ = [
    "RECIPE_FILE",
    "RECIPE_KEY",
    "check_recipe",
    "ensure_recipe",
    "recipe_metadata",
    "recipe_of",
    "save_recipe",
]

RECIPE_FILE: Final = "akidb_mlx_recipe.json"
RECIPE_KEY: Final = "akidb_mlx"


def _explaining(facts: Mapping[str, RecipeFact[Any, Any]]) -> tuple[str, ...]:
    """The hashed facts that say something to a reader, and the model's name."""
    said = [
        name for name, fact in facts.items() if fact.hashed and fact.hashed not in ("weights", "dtype", "tokenizer")
    ]
    return ("model_name", "revision", *said)


# What `info()` says of the recipe in words; the fingerprint decides, these explain.
_FACTS: Final[Mapping[type, tuple[str, ...]]] = {
    Embedder: tuple(name for name, fact in FACTS.items() if fact.in_index),
    SparseEmbedder: _explaining(SPARSE_FACTS),
    MultiVectorEmbedder: _explaining(MULTI_VECTOR_FACTS),
}

AnyEmbedder: TypeAlias = EmbedderProtocol | SparseEmbedderProtocol | MultiVectorEmbedderProtocol


class Adapter(Protocol):
    """What an adapter offers here."""

    def load(self) -> AnyEmbedder: ...


Source: TypeAlias = AnyEmbedder | HybridEmbedder | Adapter | Sequence[AnyEmbedder | Adapter]
"""What makes an index's rows; several where it holds several forms of them, always in the same order."""


def recipe_of(source: Source) -> dict[str, Any]:
    """What decides the rows of an embedder, an adapter or several: the fingerprint, and in words. Loads the model.

    Examples:
        >>> recipe_of(embedder)["pooling"]
        'mean'
    """
    if isinstance(source, HybridEmbedder):
        source = (source.dense, source.sparse, source.multi)
    if isinstance(source, Sequence):
        parts = [recipe_of(each) for each in source]
        return {"fingerprint": combined([part["fingerprint"] for part in parts]), "parts": parts}
    is_embedder = callable(getattr(source, "encode_query", None))
    embedder = cast(AnyEmbedder, source) if is_embedder else cast(Adapter, source).load()
    facts: dict[str, Any] = {"model_name": type(embedder).__name__}
    if isinstance(embedder, Embedder | SparseEmbedder | MultiVectorEmbedder):
        info, names = embedder.info(), next(names for kind, names in _FACTS.items() if isinstance(embedder, kind))
        # As asked for; of a remote one by the server.
        asked = embedder.requested_dtype if isinstance(embedder, RemoteFace) else embedder.config.dtype
        facts = {name: info[name] for name in names} | {"dtype": asked}
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return {"fingerprint": embedder.fingerprint, "dimension": embedder.dimension, **plain}


def recipe_metadata(source: Source) -> dict[str, str]:
    """The recipe as one string under the key `akidb_mlx`, for the metadata of a collection or a table.

    Examples:
        >>> list(recipe_metadata(embedder))
        ['akidb_mlx']
    """
    return {RECIPE_KEY: json.dumps(recipe_of(source), sort_keys=True)}


def check_recipe(stored: str | bytes | Mapping[Any, Any] | None, source: Source, where: str = "the index") -> None:
    """Compare the recipe (or the metadata that holds it) stored with an index to the one that would serve it.

    Raises:
        ConfigError: they differ, and in what; or nothing is stored.

    Examples:
        >>> stored = recipe_metadata(embedder)
        >>> check_recipe(stored, embedder)  # the same: nothing is said
        >>> with embedder.with_settings(truncate_dim=128) as narrow:
        ...     check_recipe(stored, narrow)
        Traceback (most recent call last):
            ...
        akidb_mlx.errors.ConfigError: the vectors of the index were made with another recipe: ...
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


def ensure_recipe(folder: str | os.PathLike[str], source: Source, *, make_folder: bool | None = None) -> None:
    """Call it before opening the index at `folder`: a new one gets the recipe in or beside it, an old one must match.

    Args:
        folder: a folder, or the one file of a store (SQLite, DuckDB).
        source: an embedder or an adapter; for an index with several forms of rows what makes each, always in the same
            order: `[dense, sparse]`.
        make_folder: True makes a folder that is not there, with the recipe in it. Otherwise it is left to the store,
            and to programs that ask whether it is there; the recipe lies beside, in FOLDER.akidb_mlx_recipe.json. In a
            folder that is there the recipe lies within, unless one lies beside.

    Raises:
        ConfigError: the index was made with another recipe, or with one that nobody wrote down.

    Examples:
        >>> ensure_recipe("index", embedder)  # before the store makes the folder
        >>> Path("index.akidb_mlx_recipe.json").exists()
        True
    """
    path = Path(folder)
    for file in (path / RECIPE_FILE, _beside(path)):
        if file.is_file():
            check_recipe(file.read_text(encoding="utf-8"), source, str(path))
            return
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(
            f"{path} holds files, but no {RECIPE_FILE}: if the vectors in it were made with exactly these settings, "
            "say so once with save_recipe; else embed the documents again into a new folder"
        )
    if path.is_file() and path.stat().st_size:
        raise ConfigError(
            f"{path} is a file without a recipe beside it ({_beside(path).name}): if its vectors were made with "
            "exactly these settings, say so once with save_recipe, or keep recipe_metadata in the store and compare it "
            "with check_recipe; else embed the documents again into a new file"
        )
    save_recipe(path, source, make_folder=make_folder)


def save_recipe(folder: str | os.PathLike[str], source: Source, *, make_folder: bool | None = None) -> None:
    """Write down that the index at `folder` holds (or will hold) vectors of this recipe, whatever stood there.

    `make_folder`: see `ensure_recipe`.

    Examples:
        >>> save_recipe("old-index", embedder)
        >>> ensure_recipe("old-index", embedder)
    """
    path = Path(folder)
    inside = (path.is_dir() and not _beside(path).is_file()) or (not path.exists() and bool(make_folder))
    file = path / RECIPE_FILE if inside else _beside(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(recipe_of(source), indent=1, sort_keys=True, ensure_ascii=False)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", encoding="utf-8", delete=False) as stream:
        stream.write(text + "\n")
    Path(stream.name).replace(file)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{RECIPE_FILE}")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    olds, news = (each.get("parts", [each]) for each in (old, new))
    if _kinds(olds) != _kinds(news):
        return f"{_kinds(olds)} rows → {_kinds(news)} rows"
    said = [
        f"{_kind(theirs)}: {each}" if len(news) > 1 else each
        for one, theirs in zip(olds, news, strict=True)
        for each in _differences(one, theirs)
    ]
    return "; ".join(said) or "the same settings, but other weights, tokenizer or architecture"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    # What only one of them says, such as an output's inputs and rows, tells nothing of the vectors.
    names = [name for name in new if name in old and name != "fingerprint"]
    return [f"{name} {old.get(name)!r} → {new.get(name)!r}" for name in names if old.get(name) != new.get(name)]


def _kind(recipe: Mapping[str, Any]) -> str:
    return str(recipe.get("kind", "dense"))


def _kinds(recipes: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(map(_kind, recipes))
