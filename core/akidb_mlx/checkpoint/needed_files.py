"""Which of a repository's files a checkpoint needs: a repository may hold others beside them, or other widths."""

import json
import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["TORCH", "further_heads", "matches", "needed_files", "needed_weights", "read_module_folders"]

TORCH: Final = "pytorch_model*.bin"
# What is read by name where the transformer lies, and in the repository's own folder.
_SIDECARS: Final = (
    "adapter_config.json",
    "artifact.metadata",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "router_config.json",
    "sentence_*_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_ADAPTER: Final = "adapter_config.json"
_WITH_ADAPTERS: Final = ("jina_embeddings_v3", "jina_embeddings_v5")
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
# Further heads of an embedder (BGE-M3's), which only some uses read.
_FURTHER: Final = ("sparse_linear", "colbert_linear")
# Shards that an index will name, while it is not here itself.
_SHARD: Final = re.compile(r"(pytorch_)?model-[\w-]+\.(safetensors|bin)", re.ASCII)


def needed_files(snapshot: Path, names: Collection[str]) -> list[str]:
    """Those of a repository's `names` without which its checkpoint, as far as it is in `snapshot`, is another."""
    folders = read_module_folders(snapshot)
    modules = tuple(f"{folder}/" for folder in folders[1:] if folder)
    first = folders[0] if folders else ""
    adapters = {f"{folder}/{_ADAPTER}" for folder in _adapter_folders(snapshot, names)}
    sidecars = [
        name
        for name in names
        if (_parent(name) in ("", first) and matches(PurePosixPath(name).name, _SIDECARS))
        or (name.startswith(modules) and name.endswith(".json"))
        or name in adapters
    ]
    return sorted({*sidecars, *needed_weights(snapshot, names)})


def needed_weights(snapshot: Path, names: Collection[str]) -> list[str]:
    """Of weights one form is enough, a whole file before shards and safetensors before torch's, as they are read."""
    folders = read_module_folders(snapshot) or [""]
    inner = {_parent(name) for name in names if name.startswith(tuple(f"{one}/" for one in folders[1:] if one))}
    places = dict.fromkeys([*folders, *sorted(inner), *_adapter_folders(snapshot, names)])
    return sorted({name for folder in places for name in _weights(snapshot, folder, names)})


def _adapter_folders(snapshot: Path, names: Collection[str]) -> list[str]:
    """Folders below the model's own with an adapter each, as PEFT saves it; none where the model reads none."""
    try:
        kind = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None
    return sorted(_parent(name) for name in names if name.endswith(f"/{_ADAPTER}")) if kind in _WITH_ADAPTERS else []


def further_heads(names: Collection[str]) -> list[str]:
    """Small weights that may be wanted beside the needed ones; of each layer safetensors before torch's form."""
    both = ([f"{layer}.safetensors", f"{layer}.pt"] for layer in _FURTHER)
    return [next(name for name in forms if name in names) for forms in both if any(name in names for name in forms)]


def read_module_folders(snapshot: Path) -> list[str]:
    """Folders by modules.json, in order; empty where there is none. modules.py says what is wrong with it."""
    try:
        entries = json.loads((snapshot / "modules.json").read_text(encoding="utf-8"))
        folders = [str(entry["path"]).strip("/") for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [*folders, *(inner for folder in folders for inner in _routed(snapshot, folder))]


def _routed(snapshot: Path, folder: str) -> list[str]:
    """Folders of the modules that a Router chooses from."""
    for name in ("router_config.json", "config.json"):
        try:
            types = json.loads((snapshot / folder / name).read_text(encoding="utf-8"))["types"]
            return [f"{folder}/{inner}".strip("/") for inner in types]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _weights(snapshot: Path, folder: str, names: Collection[str]) -> list[str]:
    beside = [name for name in names if _parent(name) == folder]
    for whole in (_SAFE, _PICKLED):
        for name in (f"{folder}/{whole}".lstrip("/"), f"{folder}/{whole}.index.json".lstrip("/")):
            if name in names:
                return [name] if not name.endswith(".json") else [name, *_shards(snapshot / name, folder, beside)]
    # Under other names: what there is, for the reader to say what is wrong with it.
    return [name for name in beside if name.endswith(".safetensors")]


def _shards(index: Path, folder: str, beside: Iterable[str]) -> list[str]:
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [f"{folder}/{name}".lstrip("/") for name in named]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        suffix = ".safetensors" if _SAFE in index.name else ".bin"
        return [name for name in beside if _SHARD.fullmatch(PurePosixPath(name).name) and name.endswith(suffix)]


def _parent(name: str) -> str:
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent
