"""A model on the Hub → a folder in the Hub's cache, complete, downloaded where it is not."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from akidb_mlx.config.options import MODEL_ALIASES
from akidb_mlx.config.sources import suggestion
from akidb_mlx.errors import CheckpointError, ModelNotFoundError

__all__ = ["Resolved", "download_from_hub", "holds_checkpoint", "listed", "resolve_on_hub", "sha256_of"]

_log = logging.getLogger(__name__)


_NEEDED: Final = ("*.json", "*.safetensors")
_WANTED: Final = (*_NEEDED, "*.txt", "*.model", "README.md")  # never code or other runtimes' weights
_TORCH: Final = "pytorch_model*.bin"
# At the top or in a module's folder (2_Dense), and only where no safetensors lie beside it.
_TORCH_FILE: Final = re.compile(r"(\d+_\w+/)?pytorch_model(-[\w-]+)?\.bin", re.ASCII)
_OTHER_RUNTIMES: Final = ("onnx/*", "openvino/*", "coreml/*")

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


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


def holds_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint lies there, complete or not."""
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()


def resolve_on_hub(model: str, revision: str | None, cache_dir: Path | None, local_files_only: bool) -> Resolved:
    """The complete snapshot that is here, else a download; see `locate.resolve`."""
    from huggingface_hub import constants  # 10 ms; the client itself takes 100 and waits until it is needed

    snapshot = _find_snapshot(model, revision, cache_dir or Path(constants.HF_HUB_CACHE))
    usable = snapshot is not None and not _missing(snapshot, _NEEDED)
    if local_files_only or constants.HF_HUB_OFFLINE:
        if snapshot and usable:
            return _accepted(snapshot, model)
        state = f"here only in part ({listed(_missing(snapshot, _NEEDED))} missing)" if snapshot else "not here"
        why = "local_files_only" if local_files_only else "HF_HUB_OFFLINE"
        command = _command(model, revision)
        raise ModelNotFoundError(f"{_called(model, revision)} is {state}, and {why} is set; online, run: {command}")
    # Without a listing nobody knows that all is here: the client then fetches one, and what is missing
    if snapshot and _read_listing(snapshot) and not _missing(snapshot, _WANTED):
        return _accepted(snapshot, model)
    try:
        return download_from_hub(model, revision, cache_dir)
    except ModelNotFoundError as error:
        if snapshot and usable:
            _log.warning("using the model files at %s without asking the Hub: %s", snapshot, error)
            return _accepted(snapshot, model)
        raise


def _find_snapshot(model: str, revision: str | None, cache: Path) -> Path | None:
    """The folder that the Hub's cache has for a revision: `models--OWNER--NAME/snapshots/COMMIT`."""
    repository = cache.expanduser() / f"models--{model.replace('/', '--')}"
    commit = revision or "main"
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (repository / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    snapshot = repository / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def _accepted(snapshot: Path, model: str) -> Resolved:
    if not _has_weights(snapshot):
        raise CheckpointError(f"{model} has no safetensors and no {_TORCH} on the Hub; other formats are never loaded")
    return Resolved(snapshot, model, snapshot.name)


def _missing(snapshot: Path, patterns: Sequence[str]) -> list[str]:
    """What a snapshot lacks: by the Hub's listing of the commit where the client kept it, else by its parts.

    Only a listing finds lost sidecars (`modules.json`, prompts): without them a model loads, but otherwise.
    """
    listing = _read_listing(snapshot)
    if listing:
        torch = set(_torch_files(listing))
        return sorted(
            name
            for name, size in listing.items()
            if (_matches(name, patterns) or name in torch)
            and not _matches(name, _OTHER_RUNTIMES)
            and _size(snapshot / name) != size
        )
    missing = [] if holds_checkpoint(snapshot) else ["config.json"]
    missing += [] if _has_weights(snapshot) else ["*.safetensors"]
    kind = "*.safetensors" if any(snapshot.rglob("*.safetensors")) else _TORCH
    for index in snapshot.rglob(f"{kind}.index.json"):
        missing += [shard for shard in _shards(index) if not (index.parent / shard).is_file()]
    return missing + sorted(f"blobs/{blob.name}" for blob in snapshot.parents[1].glob("blobs/*.incomplete"))


def _has_weights(snapshot: Path) -> bool:
    return any(True for pattern in ("*.safetensors", _TORCH) for _ in snapshot.rglob(pattern))


def _torch_files(names: Iterable[str]) -> list[str]:
    """What torch.save wrote and is needed."""
    paths = [PurePosixPath(name) for name in names]
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    return [str(path) for path in paths if _TORCH_FILE.fullmatch(str(path)) and path.parent not in safe]


def _read_listing(snapshot: Path) -> dict[str, int]:
    """File → bytes from `trees/COMMIT.json`, which the client writes before it fetches a file; else {}."""
    file = snapshot.parents[1] / "trees" / f"{snapshot.name}.json"
    try:
        listing = json.loads(file.read_text(encoding="utf-8"))
        files = listing["files"] if listing["format_version"] == 1 else {}
        return {name: int(facts["size"]) for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # facts.py says what is wrong with it


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def download_from_hub(model: str, revision: str | None, cache_dir: Path | None) -> Resolved:
    """Bring a model here, or up to date with its branch; see `locate.download`."""
    try:
        path = _fetch(model, revision, cache_dir, _WANTED)
        if torch := _torch_files(_read_listing(Path(path))):  # the client has listed the repository by now
            path = _fetch(model, revision, cache_dir, torch)
    except Exception as error:  # two HTTP libraries' errors, Xet's and the disk's: each becomes one of ours
        raise ModelNotFoundError(_explain(error, model, revision)) from error
    snapshot = Path(path)
    if missing := _missing(snapshot, _NEEDED):
        raise ModelNotFoundError(f"{_called(model, revision)} is incomplete: {listed(missing)} missing")
    return _accepted(snapshot, model)


def _fetch(model: str, revision: str | None, cache_dir: Path | None, patterns: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        model,
        revision=revision,
        cache_dir=cache_dir,
        allow_patterns=list(patterns),
        ignore_patterns=list(_OTHER_RUNTIMES),
    )


def _explain(error: Exception, model: str, revision: str | None) -> str:
    """What went wrong with a download, and the remedy, in one line."""
    from huggingface_hub import errors as hub

    called, command, page = (
        _called(model, revision),
        _command(model, revision),
        f"https://huggingface.co/{model}",
    )
    if isinstance(error, hub.GatedRepoError):
        return f"{called} is gated: accept its terms at {page}, then set HF_TOKEN"
    if isinstance(error, hub.RepositoryNotFoundError):
        hint = suggestion(model, MODEL_ALIASES.values())
        return f"{called} is neither a folder nor on the Hub{hint or ';'} if it is private, set HF_TOKEN"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"{model} has no revision {revision!r}; it has those of {page}/commits/main"
    if isinstance(error, hub.LocalEntryNotFoundError):
        cause = _first_line(error.__cause__ or error)
        return f"{called} is not here, and the Hub cannot be reached ({cause}); once online, run: {command}"
    if isinstance(error, hub.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{called} is refused ({_first_line(error)}); set HF_TOKEN to a token that may read {page}"
    return f"{called} could not be downloaded ({_first_line(error)}); what came is kept: run {command}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _called(model: str, revision: str | None) -> str:
    return f"{model} at revision {revision}" if revision else model


def _command(model: str, revision: str | None) -> str:
    return f"akidb-mlx download {model}" + (f" --revision {revision}" if revision else "")


def listed(names: Sequence[object]) -> str:
    """The first of them, in words."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(str(name) for name in names[:3]) + more
