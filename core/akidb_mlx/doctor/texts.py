"""Texts to measure with: those that every Python brings, or the user's."""

import contextlib
import importlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from akidb_mlx.errors import InputError

__all__ = ["Texts", "docstrings", "read_docstrings", "read_texts"]

_MODULES: Final = """
argparse ast asyncio base64 bisect calendar collections concurrent.futures configparser contextlib copy csv ctypes
datetime decimal difflib dis doctest email.message enum fileinput fractions ftplib functools gettext glob gzip heapq
html http.client http.server imaplib inspect io ipaddress itertools json logging mailbox math mimetypes
multiprocessing.pool multiprocessing.shared_memory operator optparse os pathlib pdb pickle pickletools platform pprint
random re sched shlex shutil smtplib socket socketserver sqlite3 ssl statistics string subprocess tarfile tempfile
textwrap threading timeit tkinter tokenize trace traceback turtle types typing unittest unittest.mock urllib.parse
urllib.request uuid warnings weakref xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipfile zlib
"""
_FEWEST: Final = 12


@dataclass(frozen=True)
class Texts:
    """Queries, and the documents that they look for among."""

    name: str
    queries: Sequence[str]
    documents: Sequence[str]
    ours: bool = False
    """Whether the user gave none: nobody wants to hear which of them are cut."""

    @property
    def same(self) -> bool:
        """Whether each text looks for the others."""
        return self.queries is self.documents


def docstrings(most: int = 800) -> list[tuple[str, str]]:
    """(first paragraph, the rest) of docstrings of the standard library, each rest once."""
    pairs: dict[str, str] = {}
    with warnings.catch_warnings(action="ignore"):  # what is deprecated says so where it is only looked at
        for name in _MODULES.split():
            with contextlib.suppress(ImportError):
                pairs.update(_pairs_of(importlib.import_module(name)))
    once = {rest: first for first, rest in reversed(sorted(pairs.items())[:most])}
    return [(first, rest) for rest, first in reversed(once.items())]


def _pairs_of(module: ModuleType) -> Iterator[tuple[str, str]]:
    for _, thing in inspect.getmembers(module):
        members = [member for _, member in inspect.getmembers(thing)] if inspect.isclass(thing) else []
        for one in [thing, *members]:
            doc = (inspect.getdoc(one) or "") if callable(one) else ""
            first, _, rest = (" ".join(part.split()) for part in doc.partition("\n\n"))
            if 20 < len(first) < 200 and len(rest) > 80 and "(" not in first[:20]:
                yield first, rest


def read_docstrings(most: int = 200) -> Texts:
    """First paragraphs as queries for the rests; taken evenly from all that there are."""
    pairs = docstrings()
    pairs = pairs[:: max(1, len(pairs) // most)][:most]
    queries, documents = [first for first, _ in pairs], [rest[:600] for _, rest in pairs]
    return Texts("the standard library's docstrings", queries, documents, ours=True)


def read_texts(file: Path) -> Texts:
    """A text per line, each of which looks for the others; InputError where the file is none or has too few."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as text ({error}); give a file in UTF-8 with a text per line"
        ) from None
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < _FEWEST:
        raise InputError(f"{file} has {len(texts)} different lines; the ten nearest of a text want {_FEWEST} at least")
    return Texts(file.name, texts, texts)
