"""A revision in the Hub's cache: where its folder is, what it lacks, and whether it is known to be whole."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from akidb_mlx.checkpoint.needed_files import TORCH, further_heads, needed_files, needed_weights

__all__ = [
    "OTHER_RUNTIMES",
    "SIDECARS",
    "find_snapshot",
    "has_weights",
    "holds_checkpoint",
    "is_whole",
    "missing",
    "weight_files",
]

# README.md names the model's family; some are for other programs that share the cache. Never code; weights by name.
SIDECARS: Final = ("*.json", "*.txt", "*.model", "README.md", "artifact.metadata", "chat_template.jinja")
OTHER_RUNTIMES: Final = ("onnx/*", "openvino/*", "coreml/*")
_README: Final = "README.md"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def holds_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint lies there, complete or not."""
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()


def find_snapshot(model: str, revision: str | None, cache: Path) -> Path | None:
    """The folder that the Hub's cache has for a revision: `models--OWNER--NAME/snapshots/COMMIT`."""
    repository = cache / f"models--{model.replace('/', '--')}"
    commit = revision or "main"
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (repository / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    snapshot = repository / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def is_whole(snapshot: Path) -> bool:
    """Whether nothing that decides vectors is missing, for certain: only then nobody needs to be asked.

    By the Hub's listing of the commit where the client kept it, else (older clients, other tools) by the files.
    """
    listing = _read_listing(snapshot)
    if missing(snapshot):
        return False
    return _size(snapshot / _README) == listing.get(_README) if listing else not any(_doubtful(snapshot))


def missing(snapshot: Path) -> list[str]:
    """What a snapshot lacks of what its checkpoint needs: by the Hub's listing of the commit, else by its parts.

    Only a listing, which the client keeps, finds what else was lost (`modules.json`, prompts): without them a model
    loads, but otherwise. What the checkpoint does not read may lack, and what else was begun may be unfinished.
    """
    listing = _read_listing(snapshot)
    if listing:
        return [name for name in needed_files(snapshot, listing) if _size(snapshot / name) != listing.get(name)]
    lacking = [] if holds_checkpoint(snapshot) else ["config.json"]
    lacking += [] if has_weights(snapshot) else ["*.safetensors"]
    kind = "*.safetensors" if any(snapshot.rglob("*.safetensors")) else TORCH
    for index in snapshot.rglob(f"{kind}.index.json"):
        lacking += [shard for shard in _shards(index) if not (index.parent / shard).is_file()]
    if not lacking and not any(_doubtful(snapshot)):
        return []
    return lacking + sorted(f"blobs/{blob.name}" for blob in snapshot.parents[1].glob("blobs/*.incomplete"))


def has_weights(folder: Path) -> bool:
    """Whether any weights lie in a folder or in one below it, in a form that is read here."""
    return any(True for pattern in ("*.safetensors", TORCH) for _ in folder.rglob(pattern))


def weight_files(snapshot: Path) -> list[str]:
    """The weights that are needed or may be wanted, by the Hub's listing of the commit and the sidecars here."""
    listing = _read_listing(snapshot)
    return [*needed_weights(snapshot, listing), *further_heads(listing)]


def _doubtful(snapshot: Path) -> Iterator[str]:
    """What may be missing where there is no listing: each file that can decide vectors, unless its absence is known.

    The client notes files that it found not to exist, and who fetches `.gitattributes` fetches all there is.
    """
    notes = snapshot.parents[1] / ".no_exist" / snapshot.name
    has_all = (snapshot / ".gitattributes").is_file()
    modules = _read_modules(snapshot)
    kind, first = modules[0] if modules else ("Transformer", "")
    wanted = ["modules.json", "config_sentence_transformers.json", "README.md"]
    read = ("tokenizer.json", "tokenizer_config.json") if kind == "Transformer" else ("tokenizer.json",)
    wanted += [f"{first}/{name}".lstrip("/") for name in read]
    yield from (name for name in wanted if not (has_all or _size(snapshot / name) or (notes / name).is_file()))
    lengths = any((snapshot / first).glob("sentence_*_config.json"))
    if modules and kind == "Transformer" and not (has_all or lengths):
        yield "sentence_bert_config.json"
    yield from _lost_parts(snapshot, modules)


def _lost_parts(snapshot: Path, modules: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What other files name and is not there."""
    if not modules and any(snapshot.glob("*_Pooling")):
        yield "modules.json"
    kind, folder = modules[0] if modules else ("Transformer", "")
    first = snapshot / folder
    if kind == "Transformer" and not (first / "config.json").is_file():
        yield "config.json"
    if not has_weights(first):
        yield "model.safetensors"
    for kind, folder in modules:
        if kind in ("Pooling", "Dense") and not (snapshot / folder / "config.json").is_file():
            yield f"{folder}/config.json"


def _read_modules(snapshot: Path) -> list[tuple[str, str]]:
    """(class name, folder) by modules.json; modules.py says what is wrong with it."""
    try:
        entries = json.loads((snapshot / "modules.json").read_text(encoding="utf-8"))
        return [(str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


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


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None
