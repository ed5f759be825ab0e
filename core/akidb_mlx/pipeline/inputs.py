"""What users pass as texts: checked, and cut into chunks."""

import itertools
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence, Set

from akidb_mlx.errors import InputError

__all__ = ["as_async", "checked", "checked_stream", "chunk", "positive"]


def checked(texts: Sequence[str]) -> Sequence[str]:
    """A list of the texts; TypeError for a bare str, for what has no order or length, and for other items."""
    if isinstance(texts, str | bytes | Mapping | Set) or not hasattr(texts, "__len__"):
        raise TypeError(f"texts must be a list of str, not a {type(texts).__name__}; wrap one text in a list")
    texts = list(texts)
    for index, text in enumerate(texts):
        _check_text(text, index)
    return texts


def _check_text(text: object, index: int) -> None:
    if not isinstance(text, str):
        raise TypeError(f"item {index} is a {type(text).__name__}, not a str")


def checked_stream(texts: Iterable[str]) -> Iterator[str]:
    """The texts of an iterable, each checked as it comes."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be an iterable of str, not a {type(texts).__name__}")
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


async def as_async(texts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    """Any iterable as an async one; what was async is checked here."""
    if isinstance(texts, AsyncIterable):
        index = 0
        async for text in texts:
            yield _checked_item(index, text)
            index += 1
        return
    for text in texts:
        yield text


async def chunk(texts: AsyncIterator[str], size: int, characters: int) -> list[str]:
    """The next `size` texts, or fewer where they have `characters` together; nothing is read beyond them."""
    chunk: list[str] = []
    while len(chunk) < size and characters > 0:
        try:
            chunk.append(await anext(texts))
        except StopAsyncIteration:
            break
        characters -= len(chunk[-1])
    return chunk
