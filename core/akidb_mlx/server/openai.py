"""OpenAI's endpoints: /v1/embeddings and /v1/models."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from akidb_mlx.server.embedding import Wanted, embed_as
from akidb_mlx.server.request_body import check_texts, read_request
from akidb_mlx.server.responses import openai_response
from akidb_mlx.server.schemas import EmbeddingsRequest, ModelCard, ModelList
from akidb_mlx.server.state import State, note, state_of

__all__ = ["create_embeddings", "list_models", "show_model"]


async def create_embeddings(request: Request) -> Response:
    """Texts → vectors."""
    state = state_of(request)
    asked = await read_request(request, EmbeddingsRequest, state.settings)
    check_texts(asked.input, state.settings)
    name = state.only_name(asked.model, "embedder")
    wanted = Wanted(
        name,
        asked.input_type,
        asked.prompt_name,
        asked.wanted_dimensions,
        asked.wanted_truncate,
        task=asked.task,
    )
    dtype = asked.wanted_dtype
    rows, usage = await state.answer(request, embed_as(state, asked.input, wanted, [dtype]))
    note(request, name, len(asked.input), usage)
    return await openai_response(rows[dtype], name, usage.tokens, as_base64=asked.encoding_format == "base64")


async def list_models(request: Request) -> Response:
    """Every model that is served."""
    state = state_of(request)
    cards = [_card(state, name) for name in state.models.configs]
    return JSONResponse(ModelList(data=cards).model_dump(exclude_none=True))


async def show_model(request: Request) -> Response:
    """One of them."""
    state = state_of(request)
    name = state.addressed(request.path_params["model"]).name
    return JSONResponse(_card(state, name).model_dump(exclude_none=True))


def _card(state: State, name: str) -> ModelCard:
    model = next((model for model in state.models.loaded if model.name == name), None)
    card = ModelCard(id=name, created=state.models.created, kind=state.models.kind(name), loaded=model is not None)
    if model is None:
        return card
    own: dict[str, Any] = (
        {"num_labels": model.reranker.num_labels}
        if model.kind == "reranker"
        else {"dimension": model.encoder.dimension, "prompts": list(model.facts["prompts"])}
    )
    return card.model_copy(update={"max_seq_length": model.model.max_seq_length, **own})
