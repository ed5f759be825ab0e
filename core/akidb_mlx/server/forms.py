"""Routes of sparse, multi-vector and hybrid models: those of two other servers, and our own for all at once."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from akidb_mlx.embedder import Usage
from akidb_mlx.server.embedding import Wanted, side_of
from akidb_mlx.server.form_schemas import (
    HybridRequest,
    MatchesRequest,
    PoolingRequest,
    SparseRequest,
    TermsRequest,
)
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.request_body import check_texts, read_request
from akidb_mlx.server.responses import json_response, numbers
from akidb_mlx.server.served import ServedKind, ServedModel
from akidb_mlx.server.state import State, note, state_of
from akidb_mlx.sparse_rows import SparseRows

__all__ = ["embed_sparse", "hybrid", "matches", "pooling", "terms"]

Rows = TypeVar("Rows")
_FORMS = ("dense", "sparse", "multi_vector")
# Another task of vLLM's pooling route → where that is done here.
_ELSEWHERE = {"embed": "/v1/embeddings", "classify": "/rerank", "score": "/score"}
_Asked = SparseRequest | TermsRequest | PoolingRequest | HybridRequest


async def embed_sparse(request: Request) -> Response:
    """POST /embed_sparse, text-embeddings-inference's: texts → the entries of each row, by place."""
    state = state_of(request)
    asked = await read_request(request, SparseRequest, state.settings)

    def check(served: ServedModel) -> None:
        own = served.facts.get("truncation_side", "right")
        if asked.truncation_direction not in (None, own):
            said = f"{served.name} cuts texts on the {own}; send truncation_direction {own!r} or leave it out"
            raise Problem(422, said, param="truncation_direction")

    _, _, rows, _ = await _sparse_rows(request, asked, asked.inputs, asked.max_active_dims, check)

    def entries() -> list[list[dict[str, Any]]]:
        return [
            [{"index": index, "value": value} for index, value in zip(indices.tolist(), values, strict=True)]
            for indices, values in rows
        ]

    return await _written(entries)


async def terms(request: Request) -> Response:
    """POST /api/v1/terms: texts → their heaviest terms in words."""
    asked = await read_request(request, TermsRequest, state_of(request).settings)
    served, name, rows, usage = await _sparse_rows(request, asked, asked.texts, None)
    decoded = await asyncio.to_thread(served.sparse.decode, rows, asked.top_k)
    answer = {
        "model": name,
        "terms": [[{"term": term, "weight": weight} for term, weight in row] for row in decoded],
        "counts": np.diff(rows.indptr).tolist(),
        "usage": _used(usage),
    }
    return json_response(answer)


async def pooling(request: Request) -> Response:
    """POST /pooling, vLLM's: texts → a vector for each of their tokens."""
    state = state_of(request)
    asked = await read_request(request, PoolingRequest, state.settings)
    if asked.task not in (None, "token_embed"):
        place = _ELSEWHERE.get(asked.task)
        raise Problem(400, f"task {asked.task!r} is {f'done at {place}' if place else 'not done here'}", param="task")

    async def work(served: ServedModel, wanted: Wanted) -> tuple[Any, Usage]:
        said, limit = asked.truncate_prompt_tokens, served.multi.max_seq_length
        if said not in (None, -1) and (not limit or said < limit):
            cut = f"truncate_prompt_tokens is {said}; {served.name} cuts at its own limit, {limit}: leave it out"
            raise Problem(400, cut, param="truncate_prompt_tokens")
        return await served.multi.aencode_with_usage(asked.input, **_options(state, wanted))

    _, name, rows, usage = await _rows(request, asked, asked.input, "multi_vector", work)

    def answer() -> dict[str, Any]:
        return {
            "id": f"pool-{secrets.token_hex(16)}",
            "object": "list",
            "created": int(time.time()),
            "model": name,
            "data": [
                {"index": place, "object": "pooling", "data": numbers(row, asked.encoding_format)}
                for place, row in enumerate(rows)
            ],
            "usage": _used(usage),
        }

    return await _written(answer)


async def matches(request: Request) -> Response:
    """POST /api/v1/matches: which token of a text is most like each of a query's (MaxSim's maxima)."""
    state = state_of(request)
    asked = await read_request(request, MatchesRequest, state.settings)
    name = state.name(asked.model, "multi_vector")

    async def work() -> tuple[Any, ...]:
        served = await state.model(name, "multi_vector")
        most = state.settings.max_request_tokens
        (query, used), (text, more) = await asyncio.gather(
            served.multi.aencode_with_usage([asked.query], "query", max_tokens=most),
            served.multi.aencode_with_usage([asked.text], "document", max_tokens=most),
        )
        return served, query, text, Usage(used.tokens + more.tokens, used.truncated_texts + more.truncated_texts)

    served, query, text, usage = await state.answer(request, work())
    note(request, name, 2, usage)

    def answer() -> dict[str, Any]:
        similar = np.asarray(query[0], np.float32) @ np.asarray(text[0], np.float32).T
        best = similar.argmax(axis=1) if similar.size else np.empty(0, int)
        names = (
            served.multi.tokens([asked.query], side="query")[0],
            served.multi.tokens([asked.text], side="document")[0],
        )
        if [len(one) for one in names] != list(similar.shape):
            raise Problem(
                400, f"{served.name} merges tokens' vectors; nothing says which token one is of", param="model"
            )
        pairs = [
            {"query_token": names[0][row], "text_token": names[1][place], "similarity": similar[row, place]}
            for row, place in enumerate(best.tolist())
        ]
        pairs.sort(key=lambda pair: -pair["similarity"])
        score = served.multi.similarity(query, text)[0, 0]
        return {"model": name, "score": score, "matches": pairs[: asked.top_k], "usage": _used(usage)}

    return json_response(await asyncio.to_thread(answer))


async def hybrid(request: Request) -> Response:
    """POST /api/v1/hybrid: texts → dense, sparse and multi-vector rows of one pass."""
    state = state_of(request)
    asked = await read_request(request, HybridRequest, state.settings)
    forms = set(asked.forms or _FORMS)

    async def work(served: ServedModel, wanted: Wanted) -> tuple[Any, Usage]:
        return await served.hybrid.aencode_with_usage(asked.texts, **_options(state, wanted))

    _, name, rows, usage = await _rows(request, asked, asked.texts, "hybrid", work)

    def answer() -> dict[str, Any]:
        data: list[dict[str, Any]] = []
        for place in range(len(rows)):
            item: dict[str, Any] = {"index": place}
            if "dense" in forms:
                item["dense"] = numbers(rows.dense[place], asked.encoding_format)
            if "sparse" in forms:
                indices, values = rows.sparse[place]
                item["sparse"] = {"indices": indices, "values": values}
            if "multi_vector" in forms:
                item["multi_vector"] = numbers(rows.multi[place], asked.encoding_format)
            data.append(item)
        return {"object": "list", "data": data, "model": name, "usage": _used(usage)}

    return await _written(answer)


async def _sparse_rows(
    request: Request,
    asked: SparseRequest | TermsRequest,
    texts: list[str],
    max_active_dims: int | None,
    check: Callable[[ServedModel], None] = lambda _: None,
) -> tuple[ServedModel, str, SparseRows, Usage]:
    state = state_of(request)

    async def work(served: ServedModel, wanted: Wanted) -> tuple[SparseRows, Usage]:
        check(served)
        options = {**_options(state, wanted), "max_active_dims": max_active_dims}
        return await served.sparse.aencode_with_usage(texts, **options)

    return await _rows(request, asked, texts, "sparse", work)


async def _rows(
    request: Request,
    asked: _Asked,
    texts: Sequence[str],
    kind: ServedKind,
    work: Callable[[ServedModel, Wanted], Awaitable[tuple[Rows, Usage]]],
) -> tuple[ServedModel, str, Rows, Usage]:
    """The model, the name that the request gave or the default's, the rows, what they used."""
    state = state_of(request)
    check_texts(list(texts), state.settings)
    name = state.name(asked.model, kind)

    async def loaded() -> tuple[ServedModel, Rows, Usage]:
        wanted = Wanted(name, asked.input_type, asked.prompt_name, truncate=asked.truncate)
        wanted = Wanted(name, side_of(state, wanted), asked.prompt_name, truncate=asked.truncate)
        served = await state.model(name, kind)
        return served, *await work(served, wanted)

    served, rows, usage = await state.answer(request, loaded())
    note(request, name, len(texts), usage)
    return served, name, rows, usage


def _options(state: State, wanted: Wanted) -> dict[str, Any]:
    """What all `aencode_with_usage` take."""
    return {
        "side": wanted.side,
        "prompt_name": wanted.prompt_name,
        "on_overlong": None if wanted.truncate is None else "truncate" if wanted.truncate else "error",
        "max_tokens": state.settings.max_request_tokens,
    }


async def _written(answer: Callable[[], Any]) -> Response:
    """Its JSON, made and written off the event loop: rows per token, or of a vocabulary, are large."""
    return await asyncio.to_thread(lambda: json_response(answer()))


def _used(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens}
