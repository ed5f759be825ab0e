"""The bytes of a request → a checked schema, within the limits."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from akidb_mlx.config.sources import suggestion
from akidb_mlx.pipeline.surrogates import mended_json
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.settings import ServerSettings

__all__ = ["check_texts", "parse", "read_body", "read_request"]

Schema = TypeVar("Schema", bound=BaseModel)
_CLOSE = {"Connection": "close"}


async def read_request(request: Request, schema: type[Schema], settings: ServerSettings) -> Schema:
    """The body as `schema`.

    Raises:
        Problem: no JSON, too large, too slow, or what the schema refuses.
        ClientDisconnect: the client left before the end.
    """
    return parse(await read_body(request, settings), schema)


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """The bytes of a JSON body. Raises as `read_request`."""
    said = request.headers.get("content-type")
    kind = (said or "").partition(";")[0].strip().lower()
    # Not only for tidiness: a page of another origin may send any other type, or none, without asking first. But then
    # its browser says whose page it is, and whoever says neither is no page.
    if kind != "application/json" and (said is not None or "origin" in request.headers):
        came = f"it came as {kind}" if kind else "it came without a content-type"
        raise Problem(415, f"send the body as application/json; {came}")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "send the body without a content-encoding")
    limit = settings.body_timeout_s
    try:
        async with asyncio.timeout(limit):
            return await _read_body(request, settings.max_request_bytes)
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {limit:g} s (body_timeout_s)", headers=_CLOSE) from None


def parse(body: bytes, schema: type[Schema]) -> Schema:
    """The bytes as `schema`; a Problem that names the field at fault."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid" and (mended := mended_json(body)):
            return parse(mended, schema)
        raise _from_validation(error, schema) from None


def check_texts(texts: list[str], settings: ServerSettings) -> list[str]:
    """The texts unaltered, unless there are too many."""
    if len(texts) > settings.max_texts:
        raise Problem(400, f"{len(texts)} texts in one request; at most {settings.max_texts} are taken (max_texts)")
    return texts


async def _read_body(request: Request, limit: int) -> bytes:
    # The rest is read and thrown away by uvicorn: a client that is cut off while it sends never sees the answer.
    too_large = Problem(413, f"the body has more than {limit} bytes (max_request_bytes)")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _from_validation(error: ValidationError, schema: type[BaseModel]) -> Problem:
    """The first thing wrong with a body, in a line."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if first["type"] == "json_invalid":
        return Problem(400, f"the body is no valid JSON: {message.removeprefix('Invalid JSON: ')}")
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        near = suggestion(name, schema.model_fields) if len(first["loc"]) == 1 else ""
        return Problem(400, f"unknown field {name!r}{near}", param=str(first["loc"][0]))
    path = [str(part) for part in first["loc"]]
    where = ".".join(path) or "the body"
    return Problem(400, f"{where}: {message}", param=path[0] if path else None)
