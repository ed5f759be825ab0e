"""Cohere's /v2/embed: texts → vectors of the types that were asked for."""

import asyncio
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.server.cohere_schemas import CohereEmbedRequest
from akidb_mlx.server.embedding import Wanted, embed_as
from akidb_mlx.server.request_body import check_texts, read_request
from akidb_mlx.server.responses import json_response, numbers
from akidb_mlx.server.state import note, state_of
from akidb_mlx.small_vectors import OutputDtype

__all__ = ["embed"]

_SIDES: dict[str | None, Side] = {"search_query": "query", "search_document": "document"}
# Cohere's names of what we call otherwise; base64 is of the floats.
_DTYPES: dict[str, OutputDtype] = {
    "float": "float32",
    "base64": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}


async def embed(request: Request) -> Response:
    """POST /v2/embed."""
    state = state_of(request)
    asked = await read_request(request, CohereEmbedRequest, state.settings)
    check_texts(asked.texts, state.settings)
    types = list(dict.fromkeys(asked.embedding_types or ["float"]))
    truncate = None if asked.truncate is None else asked.truncate == "END"
    wanted = Wanted(asked.model, _SIDES.get(asked.input_type), dimensions=asked.output_dimension, truncate=truncate)
    dtypes = [_DTYPES[one] for one in types]
    rows, usage = await state.answer(request, embed_as(state, asked.texts, wanted, dtypes))
    note(request, asked.model, len(asked.texts), usage)

    def answer() -> dict[str, Any]:
        by_type = {one: rows[_DTYPES[one]] for one in types}
        return {
            "id": secrets.token_hex(16),
            "embeddings": {
                one: [numbers(row, "base64") for row in found] if one == "base64" else found
                for one, found in by_type.items()
            },
            "texts": asked.texts,
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": usage.tokens}},
            "response_type": "embeddings_by_type",
        }

    return await asyncio.to_thread(lambda: json_response(answer()))
