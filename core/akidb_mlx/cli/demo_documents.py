"""The demo's documents: descriptions of installed packages, or the text files below a folder."""

import importlib.metadata
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import InputError

__all__ = ["Document", "descriptions", "read_folder", "within"]

_TOKENS_PER_ADAPTER = 20_000
_SUFFIXES = (".txt", ".md", ".markdown")
# What programs put there, not people.
_NOT_OURS = frozenset({"node_modules", "__pycache__", "site-packages"})


@dataclass(frozen=True)
class Document:
    """One text and what to call it."""

    name: str
    text: str


def descriptions() -> Iterator[Document]:
    """The long descriptions of the installed packages: READMEs, their prose without badges, tables and code."""
    seen = set()
    for distribution in sorted(importlib.metadata.distributions(), key=lambda d: str(d.name).lower()):
        metadata: Any = distribution.metadata
        text = metadata.get_payload() or metadata.get("Description") or ""
        prose = "\n\n".join(_prose(str(text)))
        if prose and distribution.name not in seen:
            seen.add(distribution.name)
            yield Document(str(distribution.name), prose)


def _prose(text: str) -> Iterator[str]:
    """Paragraphs that read as sentences."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"```.*?(```|\Z)|<!--.*?-->", "", text, flags=re.DOTALL)):
        without_images = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", paragraph)  # first: a badge is an image within a link
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|<[^>]+>", r"\1", without_images).strip()
        words = plain.split()
        letters = sum(character.isalpha() or character.isspace() for character in plain)
        if len(words) >= 8 and letters > 0.85 * len(plain) and not plain.startswith(("|", "..", "#", ">>>", "$")):
            yield " ".join(words)


def within(embedder: Embedder, documents: Iterable[Document]) -> Iterator[Document]:
    """The first paragraphs of each, so that all together stay under the budget of tokens."""
    documents = list(documents)
    share = _TOKENS_PER_ADAPTER // max(1, len(documents))
    for document in documents:
        kept: list[str] = []
        left = share
        paragraphs = document.text.split("\n\n")
        for paragraph, tokens in zip(paragraphs, embedder.count_tokens(paragraphs), strict=True):
            if tokens > left:
                break
            kept.append(paragraph)
            left -= tokens
        if kept:
            yield Document(document.name, "\n\n".join(kept))


def read_folder(folder: Path) -> tuple[list[Document], list[tuple[str, str]]]:
    """The text files below a folder, by name; and those that are left out, each with the reason.

    Hidden files and folders, and what package managers put there, are passed over.

    Raises:
        InputError: it is no folder, or nothing in it has text.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name one with .txt or .md files")
    documents, left_out = [], []
    for file in _files(folder):
        name = str(file.relative_to(folder))
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            left_out.append((name, "not UTF-8"))
        except OSError as error:
            left_out.append((name, error.strerror or str(error)))
        else:
            if "\0" in text:
                left_out.append((name, "not text"))
            elif text.strip():
                documents.append(Document(name, text))
            else:
                left_out.append((name, "empty"))
    if not documents:
        why = "; ".join(f"{name}: {why}" for name, why in left_out[:3])
        raise InputError(f"{folder} holds no .txt or .md file with text in it{f' ({why})' if why else ''}")
    return documents, left_out


def _files(folder: Path) -> Iterator[Path]:
    """Below `folder`, in the order of their names."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_OURS]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return iter(sorted(file for file in found if file.suffix.lower() in _SUFFIXES))
