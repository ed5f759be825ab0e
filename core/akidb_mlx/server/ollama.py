"""Ollama's interface for embeddings, for applications that speak nothing else."""

import asyncio
import contextlib
import math
import time
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import akidb_mlx
from akidb_mlx.embedder import Usage
from akidb_mlx.errors import CheckpointError, InputError
from akidb_mlx.server import embedding
from akidb_mlx.server.embedding import Wanted
from akidb_mlx.server.models import ServedModel
from akidb_mlx.server.ollama_schemas import (
    OllamaDetails,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaModel,
    OllamaModels,
    OllamaRunning,
    OllamaRunningModels,
    OllamaShowRequest,
    OllamaShowResponse,
    OllamaVersion,
)
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.request_body import check_texts, read_request
from akidb_mlx.server.responses import json_response, ollama_response
from akidb_mlx.server.state import State, note, state_of
from akidb_mlx.vectors import Embeddings

__all__ = ["embed", "embeddings", "running", "show", "tags", "version"]

# What Ollama says of a model that is never freed.
_FOR_EVER_S = 292 * 365 * 86_400.0
_TAGS = ("latest", "query", "document")
# Ollama's words, by which clients know that they should cut a text in two.
_TOO_LONG = "the input length exceeds the context length"


async def embed(request: Request) -> Response:
    """POST /api/embed: texts → vectors."""
    began = time.monotonic_ns()
    state = state_of(request)
    asked = await read_request(request, OllamaEmbedRequest, state.settings)
    check_texts(asked.input, state.settings)
    wanted = Wanted(asked.model, asked.input_type, dimensions=asked.dimensions or None, truncate=asked.truncate)
    rows, usage, load = await state.answer(request, _embed(state, asked.input, wanted, asked))
    note(request, asked.model, len(asked.input), usage)
    about = {"total_duration": time.monotonic_ns() - began, "load_duration": load, "prompt_eval_count": usage.tokens}
    return await ollama_response(rows, asked.model, about)


async def embeddings(request: Request) -> Response:
    """POST /api/embeddings: one text → its vector, Ollama's older route."""
    state = state_of(request)
    asked = await read_request(request, OllamaEmbeddingsRequest, state.settings)
    texts = [] if asked.prompt is None else [asked.prompt]
    wanted = Wanted(asked.model, asked.input_type)
    rows, usage, _ = await state.answer(request, _embed(state, texts, wanted, asked))
    note(request, asked.model, len(texts), usage)
    return json_response({"embedding": rows[0] if len(rows) else []})


async def tags(request: Request) -> Response:
    """GET /api/tags: the embedders, each also under the names that say a side."""
    state = state_of(request)
    loaded = {model.name: model for model in state.models.loaded}
    entries = [_entry(state, f"{name}:{tag}", loaded.get(name)) for name in _served(state) for tag in _TAGS]
    return JSONResponse(OllamaModels(models=entries).model_dump())


async def running(request: Request) -> Response:
    """GET /api/ps: the embedders whose weights are in memory, and until when."""
    state = state_of(request)
    entries = []
    for model in state.models.loaded:
        stats = model.model.stats()
        if model.name in _served(state) and stats.get("loaded"):
            entry, keep = _entry(state, f"{model.name}:latest", model), stats["keep_alive"]
            left = math.inf if keep is None else max(0.0, keep - stats["idle_s"])
            size = stats["weights_bytes"]
            about = entry.model_dump(include={"name", "model", "digest", "details"})
            expires = (datetime.now(UTC) + timedelta(seconds=min(left, _FOR_EVER_S))).isoformat()
            entries.append(OllamaRunning(**about, size=size, size_vram=size, expires_at=expires))
    return JSONResponse(OllamaRunningModels(models=entries).model_dump())


async def show(request: Request) -> Response:
    """POST /api/show: about one model."""
    state = state_of(request)
    asked = await read_request(request, OllamaShowRequest, state.settings)
    model = await state.answer(request, state.model(asked.called, "embedder"))
    family = str(model.facts["architecture"])
    about = {
        "general.architecture": family,
        f"{family}.context_length": model.model.max_seq_length,
        f"{family}.embedding_length": model.embedder.dimension,
    }
    entry = _entry(state, asked.called, model)
    return JSONResponse(
        OllamaShowResponse(details=entry.details, model_info=about, modified_at=entry.modified_at).model_dump()
    )


async def version(_: Request) -> Response:
    """GET /api/version."""
    return JSONResponse(OllamaVersion(version=akidb_mlx.__version__).model_dump())


async def _embed(
    state: State, texts: list[str], wanted: Wanted, asked: OllamaEmbedRequest | OllamaEmbeddingsRequest
) -> tuple[Embeddings, Usage, int]:
    """Rows, their usage, and the nanoseconds that loading took."""
    began = time.monotonic_ns()
    model = await state.model(wanted.model, "embedder")
    load = time.monotonic_ns() - began
    if asked.keep_alive is not None:
        model.model.keep_for(None if asked.keep_alive < 0 else asked.keep_alive)
    await _check_num_ctx(model, texts, asked.num_ctx)
    try:
        rows, usage = await embedding.embed(state, texts, wanted)
    except InputError as error:
        if "max_seq_length" not in str(error):
            raise
        raise Problem(400, f"{_TOO_LONG}: {error}", param="input") from None
    return rows, usage, load


async def _check_num_ctx(model: ServedModel, texts: list[str], num_ctx: int | None) -> None:
    """Refuse to read more of a text than the caller said, rather than give another vector than is expected."""
    limit = model.model.max_seq_length
    if num_ctx is None or not texts or (limit is not None and num_ctx >= limit):
        return
    if max(await asyncio.to_thread(model.embedder.count_tokens, texts)) > num_ctx:
        said = f"a text has more than options.num_ctx ({num_ctx}) tokens; leave num_ctx out: {model.name} reads {limit}"
        raise Problem(400, f"{_TOO_LONG}: {said}", param="options")


def _fingerprint(model: ServedModel | None) -> str:
    """Nothing where it is not loaded, or its files are no longer those that were."""
    with contextlib.suppress(CheckpointError):
        return "" if model is None else model.embedder.fingerprint
    return ""


def _served(state: State) -> list[str]:
    return state.models.names("embedder")


def _entry(state: State, name: str, model: ServedModel | None) -> OllamaModel:
    created = datetime.fromtimestamp(state.models.created, UTC).isoformat()
    facts = model.facts if model is not None else {}
    family = str(facts.get("architecture") or "")
    return OllamaModel(
        name=name,
        model=name,
        modified_at=created,
        size=facts.get("parameter_bytes") or 0,
        digest=_fingerprint(model),
        details=OllamaDetails(
            family=family,
            families=[family] if family else [],
            quantization_level=str(facts.get("dtype") or ""),
        ),
    )
