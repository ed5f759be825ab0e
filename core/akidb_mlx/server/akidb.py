"""AkiDB's endpoint: POST /api/v1/embed."""

import time

from starlette.requests import Request
from starlette.responses import Response

from akidb_mlx.config.options import POOLING_SPELLINGS
from akidb_mlx.embedder import Usage
from akidb_mlx.server import embedding
from akidb_mlx.server.embedding import Wanted
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.request_body import check_texts, read_request
from akidb_mlx.server.responses import akidb_response
from akidb_mlx.server.schemas import AkiDBEmbedRequest
from akidb_mlx.server.state import State, note, state_of
from akidb_mlx.vectors import Embeddings

__all__ = ["embed"]


async def embed(request: Request) -> Response:
    """Texts → vectors, as documents: the same as `EmbeddingService.embed` and `akidb-mlx bridge`."""
    began = time.monotonic()
    state = state_of(request)
    asked = await read_request(request, AkiDBEmbedRequest, state.settings)
    check_texts(asked.texts, state.settings)
    name = state.name(asked.model, "embedder")
    rows, usage = await state.answer(request, _embed(state, asked, name))
    note(request, name, len(asked.texts), usage)
    return await akidb_response(rows, name, usage.tokens, time.monotonic() - began)


async def _embed(state: State, asked: AkiDBEmbedRequest, name: str) -> tuple[Embeddings, Usage]:
    wanted = Wanted(name, asked.input_type, normalize=asked.normalize)
    if asked.pooling is not None:
        model = await state.model(name, "embedder")
        pooling = model.facts["pooling"]
        if POOLING_SPELLINGS.get(asked.pooling, asked.pooling) != pooling:
            said = f'{name} pools with "{pooling}", not "{asked.pooling}"; send that or leave it out'
            raise Problem(400, said, param="pooling")
    return await embedding.embed(state, asked.texts, wanted, default_side="document")
