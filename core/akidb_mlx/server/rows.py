"""Our own routes, which the remote classes ask: rows of any kind as bytes, tokens counted, what a model is."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

import akidb_mlx
from akidb_mlx import wire
from akidb_mlx.embedder import Usage
from akidb_mlx.errors import AkiDBMLXError, ConfigError
from akidb_mlx.pipeline.chunk import name_text
from akidb_mlx.pipeline.watching import watched_by
from akidb_mlx.reranker import Reranker
from akidb_mlx.server.embedding import Wanted, side_of
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.request_body import check_texts, read_request
from akidb_mlx.server.responses import json_response
from akidb_mlx.server.row_schemas import DescribeRequest, RowsRequest, TokensRequest
from akidb_mlx.server.state import State, note, state_of
from akidb_mlx.server.variants import Variant
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["count_tokens", "describe", "rows"]


async def rows(request: Request) -> Response:
    """POST /api/v1/rows: texts → rows, pairs → scores; the body is the numbers, the headers say of what shape."""
    state = state_of(request)
    asked = await read_request(request, RowsRequest, state.settings)
    check_texts(asked.inputs, state.settings)
    name = state.name(asked.model, asked.kind)
    errors: dict[int, AkiDBMLXError] | None = {} if asked.partial else None
    cut = _Cut()

    async def work() -> tuple[Variant, Any, Usage]:
        variant = await _variant(state, name, asked)
        if asked.fingerprint not in (None, variant.fingerprint):
            said = f"{name} has the fingerprint {variant.fingerprint} here, not {asked.fingerprint}"
            raise Problem(409, said, param="fingerprint", code="other_fingerprint")
        with watched_by(cut):
            given, usage = await _compute(state, name, asked, variant, errors)
        return variant, given, usage

    variant, given, usage = await state.answer(request, work())
    note(request, name, len(asked.inputs), usage)
    if asked.kind == "reranker":
        state.metrics.reranked(state.addressed(name).name, len(asked.inputs))
    arrays = wire.arrays_of(given)
    if asked.truncated and cut.places:
        arrays["truncated"] = np.array(sorted(cut.places), np.int64)
    if errors:
        for error in errors.values():
            name_text(error, asked.inputs, asked.first)
        arrays["errors"] = np.frombuffer(
            json.dumps({place: _told(one) for place, one in errors.items()}).encode(), "u1"
        )
    described, body = wire.pack(arrays)
    headers = {
        wire.ARRAYS: described,
        wire.FINGERPRINT: variant.fingerprint,
        wire.TOKENS: str(usage.tokens),
        wire.TRUNCATED: str(usage.truncated_texts),
    }
    if usage.truncated_texts:
        headers[wire.MAX_SEQ_LENGTH] = str(variant.face._path.encoder.limit(asked.input_type))
    if isinstance(variant.face, SparseEmbedder):
        headers[wire.DIMENSION] = str(variant.face.dimension)
    return Response(body, media_type="application/octet-stream", headers=headers)


class _Cut:
    """Notes which texts were cut."""

    def __init__(self) -> None:
        self.places: list[int] = []

    def computed(self, texts: int) -> None:
        pass

    def cut(self, places: Sequence[int]) -> None:
        self.places += places


async def count_tokens(request: Request) -> Response:
    """POST /api/v1/tokens: texts or pairs → how many tokens the model reads of each."""
    state = state_of(request)
    asked = await read_request(request, TokensRequest, state.settings)
    check_texts(asked.inputs, state.settings)
    name = state.name(asked.model, asked.kind)

    async def work() -> tuple[Variant, list[int]]:
        variant = await _variant(state, name, asked)
        sided = asked.kind in ("sparse", "multi_vector")
        options: dict[str, Any] = {"side": _side(state, name, asked)} if sided else {}
        if not asked.truncate:
            options["truncate"] = False
        prompt = asked.prompt or ""
        face: Any = variant.face
        return variant, await asyncio.to_thread(face.count_tokens, asked.inputs, prompt, **options)

    variant, tokens = await state.answer(request, work())
    note(request, name, len(asked.inputs), Usage(sum(tokens)))
    return json_response({"model": name, "fingerprint": variant.fingerprint, "tokens": tokens})


async def describe(request: Request) -> Response:
    """POST /api/v1/describe: a model with a client's settings → its fingerprint, limits, prompts and `info()`."""
    state = state_of(request)
    asked = await read_request(request, DescribeRequest, state.settings)
    name = state.name(asked.model, asked.kind)

    async def work() -> dict[str, Any]:
        variant = await _variant(state, name, asked)
        face: Any = variant.face
        prompts, limits = face._prompts, state.settings
        return {
            "model": name,
            "kind": asked.kind,
            "fingerprint": variant.fingerprint,
            "dtype": face.config.dtype,
            "dimension": getattr(face, "dimension", None),
            "full_dimension": getattr(face, "full_dimension", None),
            "num_labels": getattr(face, "num_labels", None),
            "max_seq_length": face.max_seq_length,
            "calibration": await asyncio.to_thread(getattr, face, "_calibration", None),
            "prompts": {
                "named": dict(prompts.named),
                "default_name": prompts.default_name,
                "query": prompts.query,
                "document": prompts.document,
            },
            "limits": {
                "max_texts": limits.max_texts,
                "max_request_bytes": limits.max_request_bytes,
                "max_request_tokens": limits.max_request_tokens,
            },
            "version": akidb_mlx.__version__,
            "info": await asyncio.to_thread(face.info),
        }

    return json_response(await state.answer(request, work()))


async def _variant(state: State, name: str, asked: DescribeRequest | RowsRequest | TokensRequest) -> Variant:
    served = await state.model(name, asked.kind)
    try:
        return await served.variants.get(served.face(asked.kind), name, asked.settings)
    except ConfigError as error:
        raise Problem(400, str(error), param="settings", error=type(error)) from None


async def _compute(
    state: State, name: str, asked: RowsRequest, variant: Variant, errors: dict[int, AkiDBMLXError] | None
) -> tuple[Any, Usage]:
    options: dict[str, Any] = {
        **asked.options,
        "prompt": asked.prompt,
        "on_overlong": asked.on_overlong,
        "max_tokens": state.settings.max_request_tokens,
        "first": asked.first,
        "errors": errors,
    }
    if isinstance(variant.face, Reranker):
        return await variant.face.apredict_with_usage(asked.inputs, **options)
    return await variant.face.aencode_with_usage(asked.inputs, side=_side(state, name, asked), **options)


def _side(state: State, name: str, asked: RowsRequest | TokensRequest) -> Any:
    return side_of(state, Wanted(name, asked.input_type))


def _told(error: AkiDBMLXError) -> list[Any]:
    return [type(error).__name__, str(error), getattr(error, "retry_after_s", None)]
