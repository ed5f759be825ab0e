"""OpenAI's endpoints: /v1/embeddings and /v1/models."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from akidb_mlx.embedder import Usage
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.request_body import check_texts, read_request
from akidb_mlx.server.responses import openai_response
from akidb_mlx.server.schemas import EmbeddingsRequest, ModelCard, ModelList
from akidb_mlx.server.state import State, note, state_of
from akidb_mlx.vectors import Embeddings

__all__ = ["create_embeddings", "list_models", "show_model"]


async def create_embeddings(request: Request) -> Response:
    """Texts → vectors."""
    state = state_of(request)
    asked = await read_request(request, EmbeddingsRequest, state.settings)
    check_texts(asked.input, state.settings)
    if asked.input_type is not None and asked.prompt_name is not None:
        raise Problem(400, "input_type decides the prompt; give that or prompt_name, not both", param="prompt_name")
    rows, usage = await state.answer(request, _embed(state, asked))
    note(request, asked.model, len(asked.input), usage)
    return await openai_response(rows, asked.model, usage.tokens, as_base64=asked.encoding_format == "base64")


async def _embed(state: State, asked: EmbeddingsRequest) -> tuple[Embeddings, Usage]:
    model = await state.model(asked.model, "embedder")
    full = model.embedder.full_dimension
    if asked.dimensions is not None and asked.dimensions > full:
        raise Problem(
            400, f"dimensions is {asked.dimensions}; {asked.model} has 1 to {full} dimensions", param="dimensions"
        )
    return await model.embedder.aencode_with_usage(
        asked.input,
        side=asked.input_type,
        prompt_name=asked.prompt_name,
        truncate_dim=asked.dimensions,
        on_overlong=None if asked.truncate is None else "truncate" if asked.truncate else "error",
        max_tokens=state.settings.max_request_tokens,
    )


async def list_models(request: Request) -> Response:
    """Every model that is served."""
    state = state_of(request)
    cards = [_card(state, name) for name in state.models.configs]
    return JSONResponse(ModelList(data=cards).model_dump(exclude_none=True))


async def show_model(request: Request) -> Response:
    """One of them."""
    state = state_of(request)
    name = state.known_name(request.path_params["model"])
    return JSONResponse(_card(state, name).model_dump(exclude_none=True))


def _card(state: State, name: str) -> ModelCard:
    model = next((model for model in state.models.loaded if model.name == name), None)
    card = ModelCard(id=name, created=state.models.created, kind=state.models.kind(name), loaded=model is not None)
    if model is None:
        return card
    own: dict[str, Any] = (
        {"dimension": model.embedder.dimension, "prompts": list(model.facts["prompts"])}
        if model.kind == "embedder"
        else {"num_labels": model.reranker.num_labels}
    )
    return card.model_copy(update={"max_seq_length": model.model.max_seq_length, **own})
