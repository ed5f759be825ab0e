"""A model on the Hub → a folder in the Hub's cache, complete, downloaded where it is not."""

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from akidb_mlx.checkpoint.hub_errors import called, command, endpoint, explain
from akidb_mlx.checkpoint.snapshot import (
    OTHER_RUNTIMES,
    SIDECARS,
    find_snapshot,
    has_weights,
    holds_checkpoint,
    is_whole,
    missing,
    weight_files,
)
from akidb_mlx.checkpoint.waiting import Limit, Unanswered, Watch, timed_out
from akidb_mlx.config.sources import expanded
from akidb_mlx.errors import CheckpointError, ConfigError, ModelNotFoundError

__all__ = ["Resolved", "download_from_hub", "holds_checkpoint", "listed", "resolve_on_hub", "sha256_of"]

_log = logging.getLogger(__name__)

# The client tries a file six times; its data come in pieces of up to 64 MB, which a slow line brings in minutes
_TRIES: Final = 12


@dataclass(frozen=True)
class Resolved:
    """Where a model's files are; `name` is what the user said, aliases spelled out."""

    path: Path
    name: str
    revision: str | None = None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve_on_hub(model: str, revision: str | None, cache_dir: Path | None, local_files_only: bool) -> Resolved:
    """The complete snapshot that is here, else a download; see `locate.resolve`."""
    cache = _cache_folder(cache_dir)
    snapshot = find_snapshot(model, revision, cache)
    if why := _offline(local_files_only):
        return _resolve_offline(model, revision, snapshot, why)
    if snapshot and is_whole(snapshot):
        return _accepted(snapshot, model)
    return _fetch_or_keep(model, revision, cache)


def download_from_hub(model: str, revision: str | None, cache_dir: Path | None) -> Resolved:
    """Bring a model here, or up to date with its branch; see `locate.download`."""
    cache = _cache_folder(cache_dir)
    snapshot = find_snapshot(model, revision, cache)
    if why := _offline(False):
        return _resolve_offline(model, revision, snapshot, why)
    if snapshot and snapshot.name == revision and is_whole(snapshot):  # a commit never changes
        return _accepted(snapshot, model)
    return _fetch_or_keep(model, revision, cache)


def _cache_folder(said: Path | None) -> Path:
    """The folder of all models; ConfigError where it would be in a home folder that there is not."""
    from huggingface_hub import constants  # 10 ms; the client itself takes 100 and waits until it is needed

    if said is not None:
        return expanded(said, "cache_dir")
    if constants.HF_HUB_CACHE.startswith("~"):  # the client would make a folder of that name
        raise ConfigError(
            "this user has no home folder to keep models in; set HF_HOME or AKIDB_MLX_CACHE_DIR (cache_dir) to a folder"
        )
    return Path(constants.HF_HUB_CACHE)


def _offline(local_files_only: bool) -> str | None:
    """The setting that forbids the network, if any."""
    from huggingface_hub import constants

    return "local_files_only" if local_files_only else "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else None


def _resolve_offline(model: str, revision: str | None, snapshot: Path | None, why: str) -> Resolved:
    if snapshot and not missing(snapshot):
        return _accepted(snapshot, model)
    state = f"here only in part ({listed(missing(snapshot))} missing)" if snapshot else "not here"
    raise ModelNotFoundError(
        f"{called(model, revision)} is {state}, and {why} is set; online, run: {command(model, revision)}"
    )


def _fetch_or_keep(model: str, revision: str | None, cache: Path) -> Resolved:
    """A download; where that fails, what is here if vectors need no more."""
    try:
        return _fetch(model, revision, cache)
    except ModelNotFoundError as error:
        snapshot = find_snapshot(model, revision, cache)
        if snapshot and not missing(snapshot):
            _log.warning("using the model files at %s as they are: %s", snapshot, error)
            return _accepted(snapshot, model)
        raise


def _accepted(snapshot: Path, model: str) -> Resolved:
    if not has_weights(snapshot):
        raise CheckpointError(
            f"{model} has no safetensors and no pytorch_model*.bin on the Hub; other formats are never loaded"
        )
    return Resolved(snapshot, model, snapshot.name)


def _fetch(model: str, revision: str | None, cache: Path) -> Resolved:
    from huggingface_hub import constants, snapshot_download

    to_ask = Limit(constants.HF_HUB_ETAG_TIMEOUT, "an answer", "HF_HUB_ETAG_TIMEOUT")
    to_fetch = Limit(_TRIES * constants.HF_HUB_DOWNLOAD_TIMEOUT, "its files", f"{_TRIES} times HF_HUB_DOWNLOAD_TIMEOUT")
    watch = Watch()
    fetch = functools.partial(
        snapshot_download,
        model,
        revision=revision,
        cache_dir=cache,
        ignore_patterns=list(OTHER_RUNTIMES),
        tqdm_class=_bar_that_beats(watch),
    )
    try:
        watch.run(functools.partial(_ask, model, revision, to_ask), to_ask)
        path = watch.run(functools.partial(fetch, allow_patterns=list(SIDECARS)), to_fetch)
        # By now the client has listed the repository, and what is here says which weights it takes.
        if weights := weight_files(Path(path)):
            path = watch.run(functools.partial(fetch, allow_patterns=weights), to_fetch)
    except Exception as error:  # two HTTP libraries' errors, Xet's and the disk's: each becomes one of ours
        raise ModelNotFoundError(explain(error, model, revision)) from error
    snapshot = Path(path)
    if lacking := missing(snapshot):
        raise ModelNotFoundError(
            f"{called(model, revision)} is incomplete at {endpoint()}: {listed(lacking)} missing; "
            f"run: {command(model, revision)}"
        )
    return _accepted(snapshot, model)


def _ask(model: str, revision: str | None, limit: Limit) -> None:
    """Whether the model can be had: the client's download asks the same, but waits for ever."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(model, revision=revision or "main", timeout=limit.seconds).sha
    except Exception as error:
        if timed_out(error):
            raise Unanswered(limit) from error
        raise
    if not commit:
        raise ValueError("no commit")


def _bar_that_beats(watch: Watch) -> type:
    """The client's progress bar, which is told of each piece that comes, shown or not."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            watch.beat()
            return super().update(n)

    return Bar


def listed(names: Sequence[object]) -> str:
    """The first of them, in words."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(str(name) for name in names[:3]) + more
