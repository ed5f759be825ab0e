"""A revision in the Hub's cache: where its folder is, what it lacks, and whether it is known to be whole."""

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = [
    "NEEDED",
    "OTHER_RUNTIMES",
    "TORCH",
    "WANTED",
    "find_snapshot",
    "has_weights",
    "holds_checkpoint",
    "is_whole",
    "missing",
    "torch_files",
]

NEEDED: Final = ("*.json", "*.safetensors")
# README.md names the model's family; the rest is for other programs that share the cache
WANTED: Final = (
    *NEEDED,
    "*.txt",
    "*.model",
    "README.md",
    "chat_template.jinja",
)  # never code or other runtimes' weights
TORCH: Final = "pytorch_model*.bin"
# At the top or in a module's folder (2_Dense), and only where no safetensors lie beside it.
_TORCH_FILE: Final = re.compile(r"(\d+_\w+/)?pytorch_model(-[\w-]+)?\.bin", re.ASCII)
OTHER_RUNTIMES: Final = ("onnx/*", "openvino/*", "coreml/*")
_DECIDING: Final = (*NEEDED, "README.md")

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
    return not missing(snapshot, _DECIDING) and (bool(_read_listing(snapshot)) or not any(_doubtful(snapshot)))


def missing(snapshot: Path, patterns: Sequence[str] = NEEDED) -> list[str]:
    """What a snapshot lacks: by the Hub's listing of the commit where the client kept it, else by its parts.

    Only a listing finds what else was lost (`modules.json`, prompts): without them a model loads, but otherwise.
    """
    listing = _read_listing(snapshot)
    if listing:
        torch = set(torch_files(snapshot))
        return sorted(
            name
            for name, size in listing.items()
            if (_matches(name, patterns) or name in torch)
            and not _matches(name, OTHER_RUNTIMES)
            and _size(snapshot / name) != size
        )
    lacking = [] if holds_checkpoint(snapshot) else ["config.json"]
    lacking += [] if has_weights(snapshot) else ["*.safetensors"]
    kind = "*.safetensors" if any(snapshot.rglob("*.safetensors")) else TORCH
    for index in snapshot.rglob(f"{kind}.index.json"):
        lacking += [shard for shard in _shards(index) if not (index.parent / shard).is_file()]
    return lacking + sorted(f"blobs/{blob.name}" for blob in snapshot.parents[1].glob("blobs/*.incomplete"))


def has_weights(folder: Path) -> bool:
    """Whether any weights lie in a folder or in one below it, in a form that is read here."""
    return any(True for pattern in ("*.safetensors", TORCH) for _ in folder.rglob(pattern))


def torch_files(snapshot: Path) -> list[str]:
    """What torch.save wrote and is needed, by the Hub's listing of the commit."""
    paths = [PurePosixPath(name) for name in _read_listing(snapshot)]
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    return [str(path) for path in paths if _TORCH_FILE.fullmatch(str(path)) and path.parent not in safe]


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
    yield from (name for name in wanted if not (has_all or (snapshot / name).is_file() or (notes / name).is_file()))
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


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None
