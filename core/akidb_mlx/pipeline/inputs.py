"""What users pass as texts: checked, and cut into chunks."""

import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, TypeVar

from akidb_mlx.errors import InputError

__all__ = [
    "as_async",
    "checked",
    "checked_async",
    "checked_pair_stream",
    "checked_pairs",
    "checked_ranking",
    "checked_stream",
    "chunk",
    "positive",
    "valid_unicode",
]

T = TypeVar("T")


def checked(texts: Sequence[str], name: str = "texts") -> Sequence[str]:
    """A list of the texts; TypeError for a bare str, for what has no order or length, and for other items.

    `name` is what the caller's argument is called.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of str, not a {type(texts).__name__}; wrap one text in a list")
    _refuse_unordered(texts, name)
    if not hasattr(texts, "__len__"):
        hint = "give list(…) of it" if hasattr(texts, "__iter__") else "wrap one text in a list"
        raise TypeError(f"{name} must be a list of str, not a {type(texts).__name__}; {hint}")
    texts = list(texts)
    for index, text in enumerate(texts):
        _check_text(text, index)
    return texts


def _refuse_unordered(texts: object, name: str) -> None:
    """Raise TypeError for what iterates over names of columns or keys, or in no order."""
    kind = type(texts).__name__
    if isinstance(texts, Mapping):
        raise TypeError(f"{name} must be a list of str, not a {kind}, whose keys would be read; give list(….values())")
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise TypeError(
            f"{name} must be a list of str, not a {kind}, whose columns' names would be read; give one column of it"
        )
    if isinstance(texts, Set):
        raise TypeError(f"{name} must be a list of str, not a {kind}, which has no order; give sorted(…) of it")


def _check_text(text: object, index: int) -> None:
    if not isinstance(text, str):
        raise TypeError(f"item {index} is a {type(text).__name__}, not a str")


def checked_pairs(pairs: Sequence[Any]) -> list[tuple[str, str]]:
    """A list of (query, text); TypeError names the item that is no pair of str."""
    _refuse_unordered(pairs, "pairs")
    if isinstance(pairs, str | bytes) or not hasattr(pairs, "__len__"):
        raise TypeError(f"pairs must be a list of (query, text), not a {type(pairs).__name__}")
    return [_checked_pair(index, pair) for index, pair in enumerate(pairs)]


def _checked_pair(index: int, pair: object) -> tuple[str, str]:
    if isinstance(pair, str):
        raise TypeError(f"item {index} is a str, not a pair (query, text); put one pair in a list: [(query, text)]")
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise TypeError(f"item {index} is a {type(pair).__name__}{size}, not a pair (query, text)")
    for side, text in zip(("query", "text"), pair, strict=True):
        if not isinstance(text, str):
            raise TypeError(f"the {side} of item {index} is a {type(text).__name__}, not a str")
    return pair[0], pair[1]


def checked_ranking(query: object, documents: Sequence[str], top_k: object) -> Sequence[str]:
    """What a ranking takes, as a list of the documents; an error names what is none."""
    if not isinstance(query, str):
        raise TypeError(f"query must be a str, not a {type(query).__name__}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
        raise TypeError(f"top_k must be a whole number, not {top_k!r}")
    if top_k is not None and top_k < 0:
        raise InputError(f"top_k is {top_k}; it must be at least 0")
    return checked(documents, "documents")


def checked_pair_stream(pairs: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """The pairs of an iterable, each checked as it comes."""
    _refuse_unordered(pairs, "pairs")
    if isinstance(pairs, str | bytes):
        raise TypeError(f"pairs must be an iterable of (query, text), not a {type(pairs).__name__}")
    return map(_checked_pair, itertools.count(), pairs)


def checked_stream(texts: Iterable[str]) -> Iterator[str]:
    """The texts of an iterable, each checked as it comes."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be an iterable of str, not a {type(texts).__name__}; wrap one text in a list")
    _refuse_unordered(texts, "texts")
    return map(_checked_item, itertools.count(), texts)


def _checked_item(index: int, text: str) -> str:
    _check_text(text, index)
    return text


def positive(chunk_size: int) -> int:
    """A chunk size of at least 1."""
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be a whole number, not {chunk_size!r}")
    if chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}; it must be at least 1")
    return chunk_size


async def checked_async(texts: AsyncIterable[str]) -> AsyncIterator[str]:
    """The texts of an async iterable, each checked as it comes."""
    index = 0
    async for text in texts:
        yield _checked_item(index, text)
        index += 1


async def as_async(items: Iterable[T]) -> AsyncIterator[T]:
    """Any iterable as an async one."""
    for item in items:
        yield item


async def chunk(items: AsyncIterator[T], size: int, characters: int, length: Callable[[T], int]) -> list[T]:
    """The next `size` items, or fewer where they have `characters` together; nothing is read beyond them."""
    chunk: list[T] = []
    while len(chunk) < size and characters > 0:
        try:
            chunk.append(await anext(items))
        except StopAsyncIteration:
            break
        characters -= length(chunk[-1])
    return chunk


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which have no UTF-8 form, by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
