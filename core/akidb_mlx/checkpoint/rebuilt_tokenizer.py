"""The tokenizer that transformers 5 makes of a checkpoint's files, which need not be tokenizer.json's. No MLX here.

Three ways, the cheapest first: what was asked before (the user's cache), a table of what is sure, and transformers
itself, in a process of its own.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.checkpoint import ask_transformers
from akidb_mlx.checkpoint.as_it_stands import class_of, stands_as_it_is
from akidb_mlx.checkpoint.digests import cache_folder, digest_of, write_whole
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.tokenizer_classes import CLASSES
from akidb_mlx.device.forks import NO_FORK
from akidb_mlx.errors import CheckpointError

__all__ = ["RebuiltTokenizer", "TokenizerKind", "rebuild_tokenizer"]

TokenizerKind = Literal["file"] | None

_VERSION = 1  # of the answers in the cache
_CONFIG, _ADDED, _MAP = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
_TEKKEN = "tekken.json"
# What AutoTokenizer may read beside tokenizer.json: names that end so.
_READ = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_UNREAD = (".index.json",)
_LARGE = 1 << 20
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class RebuiltTokenizer:
    """A class's tokenizer; without a `state` it is what tokenizer.json holds."""

    class_name: str | None = None
    """None: nobody was asked, tokenizer.json is read as it stands."""
    state: str | None = None
    """In tokenizer.json's form."""
    differs: tuple[str, ...] = ()
    """The parts that are others than tokenizer.json's."""
    truncation_side: str | None = None
    """"right" or "left"; None where tokenizer.json decides."""
    split_special_tokens: bool = False
    """Whether special tokens that stand in a text are split as other words are."""
    input_names: tuple[str, ...] = ()
    """What the tokenizer gives a model; types of tokens only where `token_type_ids` is among them."""
    transformers: str = ""
    """The version that made the state."""

    @property
    def digest(self) -> str | None:
        """SHA-256 (hex) of the state."""
        return None if self.state is None else hashlib.sha256(self.state.encode()).hexdigest()

    def __str__(self) -> str:
        """As `info` tells it."""
        if self.state is None:
            return "tokenizer.json"
        return (
            f"{self.class_name} as transformers {self.transformers} makes it: {', '.join(self.differs)} not as in "
            'tokenizer.json, which transformers 4 read (tokenizer="file" does)'
        )


def rebuild_tokenizer(file: Path, kind: TokenizerKind = None) -> RebuiltTokenizer:
    """The tokenizer beside `file`, a tokenizer.json, as sentence-transformers has it.

    `kind` "file" takes the file as it stands, as does a tokenizer whose code lies in the checkpoint (it is never run).

    Raises:
        CheckpointError: transformers cannot make it, or only as one that splits texts in Python.
    """
    folder = file.parent
    said = read_json(folder / _CONFIG) if (folder / _CONFIG).exists() else {}
    if kind == "file" or _has_own_code(said) or not (folder / "config.json").exists():
        return RebuiltTokenizer()
    return _remembered(folder, _key(folder))


@lru_cache(maxsize=2)
def _remembered(folder: Path, key: str) -> RebuiltTokenizer:
    """From the cache, else made now and kept there; `key` stands for all that decides it."""
    stored = cache_folder() / "tokenizers" / f"{key}.json"
    known = _read(stored)
    if known is None:
        known = _by_table(folder) or _asked(folder)
        with contextlib.suppress(OSError):  # the next process asks again
            write_whole(stored, json.dumps({**asdict(known), "digest": known.digest}))
    return known


def _read(stored: Path) -> RebuiltTokenizer | None:
    try:
        values = json.loads(stored.read_text(encoding="utf-8"))
        digest = values.pop("digest")
        lists = {name: tuple(values[name]) for name in ("differs", "input_names")}
        known = RebuiltTokenizer(**{**values, **lists})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return known if known.digest == digest else None


def _has_own_code(said: Mapping[str, Any]) -> bool:
    own = said.get("auto_map")
    return bool(own.get("AutoTokenizer") if isinstance(own, Mapping) else own)


def _key(folder: Path) -> str:
    """A hash of the files that AutoTokenizer may read, and of who reads them."""
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(_READ) and not f.name.endswith(_UNREAD))
    versions = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    content = [_VERSION, versions, [[name, _digest(folder / name)] for name in names if (folder / name).is_file()]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digest(file: Path) -> str:
    """Only what takes time to read is worth remembering."""
    return digest_of(file) if file.stat().st_size > _LARGE else hashlib.sha256(file.read_bytes()).hexdigest()


def _by_table(folder: Path) -> RebuiltTokenizer | None:
    """Where the table is sure that the file stands as it is; None where it is not."""
    config, said, special = (_json_or_empty(folder / name) for name in ("config.json", _CONFIG, _MAP))
    if (folder / _ADDED).exists() and "added_tokens_decoder" not in said:
        return None
    if (folder / _TEKKEN).exists():  # what Mistral's own package would read, where it is installed
        return None
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    name = class_of(config, said, byte_level='"ByteLevel"' in text)
    kind = CLASSES.get(name or "")
    if kind is None:
        return None
    file = json.loads(text)
    if not stands_as_it_is(kind, file, said, special):
        return None
    return RebuiltTokenizer(
        name,
        truncation_side=said.get("truncation_side") or (file.get("truncation") or {}).get("direction", "Right").lower(),
        input_names=tuple(said.get("model_input_names") or kind.input_names),
    )


def _json_or_empty(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _asked(folder: Path) -> RebuiltTokenizer:
    """What transformers says, in a process of its own where it is not imported here already."""
    in_child = "transformers" not in sys.modules and _can_start_python()
    answer = (_ask_child(folder) if in_child else None) or ask_transformers.ask(str(folder.resolve()))
    if "error" in answer:
        raise CheckpointError(
            f"{folder / _CONFIG}: transformers {_transformers()} makes no tokenizer of these files "
            f'({answer["error"]}); download them again, or set tokenizer="file" to take tokenizer.json as it stands'
        )
    return RebuiltTokenizer(
        class_name=answer["class"],
        state=answer["state"],
        differs=tuple(answer["differs"]),
        truncation_side=answer["truncation_side"],
        split_special_tokens=answer["split_special_tokens"],
        input_names=tuple(answer["input_names"]),
        transformers=_transformers() if answer["state"] is not None else "",
    )


def _transformers() -> str:
    return importlib.metadata.version("transformers")


def _can_start_python() -> bool:
    """Whether `sys.executable` is Python; where it is embedded or frozen that is another program."""
    return Path(sys.executable or "").name.startswith("python") and not getattr(sys, "frozen", False)


def _ask_child(folder: Path) -> dict[str, Any] | None:
    """The child's answer; None where it could not give one."""
    command = [sys.executable, "-P", ask_transformers.__file__, str(folder.resolve())]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    try:
        with NO_FORK:
            child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with child:
            try:
                out, _ = child.communicate(timeout=_PATIENCE_S)
            except BaseException:
                child.kill()
                raise
        answer = json.loads(out) if child.returncode == 0 else None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None
