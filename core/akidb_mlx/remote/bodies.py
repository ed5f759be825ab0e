"""Texts or pairs → the bodies of requests, each within what the server takes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from akidb_mlx.pipeline.inputs import valid_unicode

__all__ = ["Body", "Limits", "bodies"]

# So much at a time: the server has several of them waiting, and computes texts of one length together.
_MOST_INPUTS: Final = 256
_MOST_BYTES: Final = 2**18
# What a text may have beside its own bytes: special tokens, a template.
_TOKENS_BESIDE: Final = 64


@dataclass(frozen=True)
class Limits:
    """What a server takes in a request."""

    max_texts: int
    max_request_bytes: int
    max_request_tokens: int


@dataclass(frozen=True)
class Body:
    """A request's body, and the places of its texts or pairs."""

    places: range
    content: bytes


def bodies(
    inputs: Sequence[str | tuple[str, str]],
    first: int | None,
    head: Mapping[str, Any],
    limits: Limits,
    most_tokens: int | None,
) -> Iterator[Body]:
    """In their order, from place `first` on, which they say where there is one.

    `head` is what each says besides, `most_tokens` what is read of a text at most.
    """
    beside = len(json.dumps(head)) + 64
    prompt = len(str(head.get("prompt") or "").encode("utf-8", "replace")) + _TOKENS_BESIDE
    some: list[bytes] = []
    size = tokens = start = 0
    for place, one in enumerate(inputs):
        encoded = _json(one)
        reads = prompt + (len(encoded) if most_tokens is None else min(len(encoded), most_tokens))
        full = len(some) == min(_MOST_INPUTS, limits.max_texts)
        large = beside + size + len(encoded) + 1 > min(_MOST_BYTES, limits.max_request_bytes)
        if some and (full or large or tokens + reads > limits.max_request_tokens):
            yield _body(some, first, start, head)
            some, size, tokens, start = [], 0, 0, place
        some.append(encoded)
        size += len(encoded) + 1
        tokens += reads
    if some:
        yield _body(some, first, start, head)


def _body(encoded: Sequence[bytes], first: int | None, start: int, head: Mapping[str, Any]) -> Body:
    places = range((first or 0) + start, (first or 0) + start + len(encoded))
    said = {**head, **({} if first is None else {"first": places.start})}
    name = b"pairs" if head["kind"] == "reranker" else b"texts"
    content = b'%b, "%b": [%b]}' % (json.dumps(said).encode()[:-1], name, b",".join(encoded))
    return Body(places, content)


def _json(one: str | tuple[str, str]) -> bytes:
    said = valid_unicode(one) if isinstance(one, str) else [valid_unicode(text) for text in one]
    return json.dumps(said, ensure_ascii=False).encode()
