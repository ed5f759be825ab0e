"""What only late interaction has, in its files: queries made longer, tokens left out, rows merged. No MLX here.

Three publishers write it in three ways: sentence-transformers, PyLate (which is its forerunner) and Stanford's ColBERT.
All is read as sentence-transformers 6.2's MultiVectorEncoder reads it.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = [
    "PUNCTUATION",
    "Expansion",
    "Skiplist",
    "TokenPooling",
    "read_expansion",
    "read_length",
    "read_pylate_settings",
    "read_skiplist",
    "read_stanford",
    "read_token_pooling",
]

PUNCTUATION = tuple(string.punctuation)
_CLASSIC_LENGTH = 32  # where a file of PyLate's or Stanford's does not say it
_EXPANSION_KEYS = ("strategy", "attend", "token", "length")
# Any of these among PyLate's keys says that queries are made longer, unless another says that they are not.
_PYLATE_KEYS = (
    "query_length",
    "document_length",
    "query_expansion",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "query_prefix",
    "document_prefix",
    "skiplist_words",
)


@dataclass(frozen=True)
class Expansion:
    """How a query is made longer, by tokens that count as its own."""

    strategy: Literal["fixed", "min"]
    """"fixed": each query has `length` tokens, longer ones are cut there; "min": at least `length`."""
    length: int
    attend: bool = False
    """Whether other tokens see those that were added."""
    token: str | None = None
    """Which token is added; None: the tokenizer's mask token, else its end token."""


@dataclass(frozen=True)
class Skiplist:
    """Tokens that give no row."""

    words: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("document",)
    """Sides that the words are left out of; a text without a side counts as a document."""
    keep_only: tuple[int, ...] = ()
    """Ids of the only tokens that give rows, but for queries; empty: all do."""


@dataclass(frozen=True)
class TokenPooling:
    """Rows of a text that are much alike become one: Ward's clusters and their means."""

    factor: float
    """Rows by clusters."""
    protected: int = 1
    """Leading rows that stay as they are."""
    normalize: bool = True
    """Whether the rows are scaled to unit length once more."""
    tasks: tuple[str, ...] = ("document",)


def read_expansion(file: Path, said: Any) -> Expansion | None:
    """`query_expansion` of a file; None where queries stay as they are."""
    if said is None:
        return None
    if not isinstance(said, dict):
        raise CheckpointError(f"{file}: query_expansion must be an object, not {said!r}")
    unknown = sorted(said.keys() - set(_EXPANSION_KEYS))
    if unknown:
        raise UnsupportedModelError(f"{file}: query_expansion has {unknown[0]}; known: {', '.join(_EXPANSION_KEYS)}")
    strategy = said.get("strategy")
    if strategy not in ("fixed", "min"):
        raise UnsupportedModelError(f"{file}: query_expansion's strategy {strategy!r} is neither fixed nor min")
    token = said.get("token")
    if token is not None and not isinstance(token, str):
        raise CheckpointError(f"{file}: query_expansion's token must be a text, not {token!r}")
    length = read_length(file, said, "length")
    if length is None:
        raise CheckpointError(f"{file}: query_expansion lacks length, the number of tokens to fill up to")
    return Expansion(strategy, length, read_field(file, said, "attend", bool, False), token)


def read_length(file: Path, said: Mapping[str, Any], key: str) -> int | None:
    """A number of tokens; None where the file leaves it out or says null."""
    value = said.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise CheckpointError(f"{file}: {key} must be a whole number of at least 1, not {value!r}")
    return value


def read_pylate_settings(file: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """PyLate's keys of config_sentence_transformers.json in the words of today.

    Of `query_length`, `document_length` and `query_expansion` those that are said; sentence-transformers' own file for
    the transformer comes before them.
    """
    settings: dict[str, Any] = {}
    for key in ("query_length", "document_length"):
        length = read_length(file, said, key)
        if length is not None:
            settings[key] = length
    if "query_expansion" in said:
        settings["query_expansion"] = said["query_expansion"]
    elif any(key in said for key in _PYLATE_KEYS):
        if said.get("do_query_expansion") is False:
            settings["query_expansion"] = None
        else:
            attend = said.get("attend_to_expansion_tokens", said.get("attend_to_mask_tokens"))
            length = settings.pop("query_length", None) or _CLASSIC_LENGTH
            settings["query_expansion"] = {"strategy": "fixed", "attend": bool(attend), "length": length}
    return settings


def read_skiplist(file: Path, said: Mapping[str, Any]) -> Skiplist:
    """A MultiVectorMask's settings."""
    _refuse_unknown(file, said, ("skiplist_words", "skiplist_tasks", "keep_only_token_ids"))
    words, ids = said.get("skiplist_words") or [], said.get("keep_only_token_ids") or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{file}: skiplist_words must be a list of texts, not {words!r}")
    if not isinstance(ids, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        raise CheckpointError(f"{file}: keep_only_token_ids must be a list of whole numbers, not {ids!r}")
    return Skiplist(tuple(words), _tasks(file, said, "skiplist_tasks"), tuple(ids))


def read_token_pooling(file: Path, said: Mapping[str, Any]) -> TokenPooling:
    """A HierarchicalTokenPooling's settings; a file without `normalize_embeddings` is an old one, which means false."""
    _refuse_unknown(file, said, ("pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks"))
    factor = said.get("pool_factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor >= 1:
        raise CheckpointError(f"{file}: pool_factor must be a number of at least 1, not {factor!r}")
    protected = read_field(file, said, "num_protected_tokens", int, 1)
    if protected < 0:
        raise CheckpointError(f"{file}: num_protected_tokens must be at least 0, not {protected}")
    normalize = read_field(file, said, "normalize_embeddings", bool, False)
    return TokenPooling(float(factor), protected, normalize, _tasks(file, said, "tasks"))


def read_stanford(file: Path) -> dict[str, Any]:
    """`artifact.metadata`, as far as it decides rows; Stanford's defaults where it is silent or missing."""
    said = read_json(file) if file.exists() else {}
    return {
        "markers": {
            "query": _marker(file, said, "query_token_id", "[unused0]"),
            "document": _marker(file, said, "doc_token_id", "[unused1]"),
        },
        "document_length": read_length(file, said, "doc_maxlen"),
        "expansion": Expansion(
            "fixed",
            read_length(file, said, "query_maxlen") or _CLASSIC_LENGTH,
            bool(said.get("attend_to_mask_tokens")),
        ),
        "skiplist": Skiplist(PUNCTUATION if said.get("mask_punctuation", True) else ()),
    }


def _marker(file: Path, said: Mapping[str, Any], key: str, default: str) -> str:
    value = said.get(key) or default
    if not isinstance(value, str):
        raise CheckpointError(f"{file}: {key} must be a token, not {value!r}")
    return value


def _tasks(file: Path, said: Mapping[str, Any], key: str) -> tuple[str, ...]:
    tasks = said.get(key)
    tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    if not isinstance(tasks, list) or not {"query", "document"}.issuperset(tasks):
        raise UnsupportedModelError(f"{file}: {key} is {tasks!r}; known are query and document")
    return tuple(tasks)


def _refuse_unknown(file: Path, said: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(said.keys() - set(known))
    if unknown:
        raise UnsupportedModelError(f"{file}: {unknown[0]} is not known here; known: {', '.join(known)}")
