"""Rows → the bytes of an answer, off the event loop where that takes milliseconds."""

import asyncio
import base64
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from akidb_mlx.vectors import Embeddings

__all__ = ["akidb_response", "json_response", "numbers", "ollama_response", "openai_response"]

# About a millisecond of writing: more is done in a thread, row by row, so that the event loop has its turn.
_INLINE_NUMBERS = 32_768


async def openai_response(rows: NDArray[Any], model: str, tokens: int, *, as_base64: bool) -> Response:
    """OpenAI's list of embeddings."""
    head = b'{"object":"list","data":['
    tail = b'],"model":%b,"usage":%b}' % (_json(model), _json({"prompt_tokens": tokens, "total_tokens": tokens}))
    write = _base64 if as_base64 else _numbers

    def items() -> Iterable[bytes]:
        for index, row in enumerate(rows):
            yield b'{"object":"embedding","index":%d,"embedding":%b}' % (index, write(row))

    return await _response(rows, head, items, tail)


async def akidb_response(rows: Embeddings, model: str, tokens: int, seconds: float) -> Response:
    """AkiDB's list of embeddings."""
    about = {
        "model": model,
        "dimension": rows.shape[1],
        "usage": {"total_tokens": tokens, "duration_ms": round(seconds * 1000)},
    }
    tail = b"]," + _json(about)[1:]
    return await _response(rows, b'{"embeddings":[', lambda: map(_numbers, rows), tail)


async def ollama_response(rows: Embeddings, model: str, about: dict[str, int]) -> Response:
    """Ollama's list of embeddings."""
    tail = b"]," + _json({"model": model, **about})[1:]
    return await _response(rows, b'{"embeddings":[', lambda: map(_numbers, rows), tail)


def json_response(value: Any) -> Response:
    """Plain values and NumPy's numbers, which are written as the shortest decimals that give them back."""
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def numbers(rows: NDArray[np.floating[Any]], encoding_format: str | None) -> NDArray[np.float32] | str:
    """For `json_response`: the numbers, or base64 of all of them as little-endian float32."""
    if encoding_format != "base64":
        return np.ascontiguousarray(rows, np.float32)
    return base64.b64encode(np.ascontiguousarray(rows, "<f4").tobytes()).decode()


async def _response(rows: NDArray[Any], head: bytes, items: Callable[[], Iterable[bytes]], tail: bytes) -> Response:
    def join() -> bytes:
        return b"".join((head, b",".join(items()), tail))

    body = join() if rows.size <= _INLINE_NUMBERS else await asyncio.to_thread(join)
    return Response(body, media_type="application/json")


def _numbers(row: NDArray[Any]) -> bytes:
    """The shortest decimals that give back the same float32: half the bytes of Python's own."""
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(row: NDArray[Any]) -> bytes:
    little = row.dtype.newbyteorder("<")
    return b'"%b"' % base64.b64encode(row.astype(little, copy=False).tobytes())


def _json(value: Any) -> bytes:
    return orjson.dumps(value)
