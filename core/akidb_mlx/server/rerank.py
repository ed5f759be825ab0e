"""The rerank routes: a query and texts → scores from 0 to 1, best first; /score (vLLM's) in the order of the pairs."""

import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from akidb_mlx.embedder import Usage
from akidb_mlx.reranker import Pair
from akidb_mlx.scores import ranking
from akidb_mlx.server.models import ServedModel
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.request_body import check_texts, parse, read_body, read_request
from akidb_mlx.server.rerank_schemas import RerankRequest, RerankTextsRequest, ScoreRequest
from akidb_mlx.server.responses import json_response
from akidb_mlx.server.state import State, note, state_of
from akidb_mlx.vectors import Embeddings

__all__ = ["rerank", "rerank_documents", "score"]

_DOCUMENTS_PER_SEARCH_UNIT = 100  # Cohere's


async def rerank(request: Request) -> Response:
    """Whose words the body has decides: `texts` are text-embeddings-inference's, `documents` everybody else's."""
    body = await read_body(request, state_of(request).settings)
    if "texts" in _names(body):
        return await _rerank_texts(request, parse(body, RerankTextsRequest))
    return await _rerank_documents(request, parse(body, RerankRequest))


async def rerank_documents(request: Request) -> Response:
    """Cohere's, Jina's and vLLM's route."""
    return await _rerank_documents(request, await read_request(request, RerankRequest, state_of(request).settings))


async def score(request: Request) -> Response:
    """The route of vLLM."""
    asked = await read_request(request, ScoreRequest, state_of(request).settings)
    scores, name, usage = await _score(request, _pairs(asked), asked)
    answer = {
        "id": f"score-{secrets.token_hex(16)}",
        "object": "list",
        "created": int(time.time()),
        "model": name,
        "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)],
        "usage": _used(usage),
    }
    return json_response(answer)


async def _rerank_texts(request: Request, asked: RerankTextsRequest) -> Response:
    scores, _, _ = await _score(request, [(asked.query, text) for text in asked.texts], asked)
    best = _best(scores, asked.top_n)
    results: list[dict[str, Any]] = [{"index": index, "score": scores[index]} for index in best]
    for result in results if asked.return_text else ():
        result["text"] = asked.texts[result["index"]]
    return json_response(results)


async def _rerank_documents(request: Request, asked: RerankRequest) -> Response:
    scores, name, usage = await _score(request, [(asked.query, text) for text in asked.documents], asked)
    best = _best(scores, asked.top_n or asked.top_k)
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best]
    for result in results if asked.return_documents else ():
        result["document"] = {"text": asked.documents[result["index"]]}
    if asked.is_voyages:
        return json_response({"object": "list", "data": results, "model": name, "usage": _used(usage)})
    units = math.ceil(len(asked.documents) / _DOCUMENTS_PER_SEARCH_UNIT)
    answer = {
        "id": f"rerank-{secrets.token_hex(16)}",
        "model": name,
        "results": results,
        "usage": _used(usage),
        "meta": {"tokens": {"input_tokens": usage.tokens}, "billed_units": {"search_units": units}},
    }
    return json_response(answer)


_Asked = RerankTextsRequest | RerankRequest | ScoreRequest


async def _score(request: Request, pairs: Sequence[Pair], asked: _Asked) -> tuple[Embeddings, str, Usage]:
    """(n,) scores of the pairs, the name that the request gave or the default's, and the tokens."""
    state = state_of(request)
    check_texts([text for _, text in pairs], state.settings)
    raw = _wants_raw(asked)
    name = state.name(asked.model, "reranker")
    served, scores, usage = await state.answer(request, _predict(state, name, pairs, asked, raw=raw))
    note(request, name, len(pairs), usage)
    state.metrics.reranked(served.name, len(pairs))
    return scores, name, usage


async def _predict(
    state: State, name: str, pairs: Sequence[Pair], asked: _Asked, *, raw: bool
) -> tuple[ServedModel, Embeddings, Usage]:
    served = await state.model(name, "reranker")
    _check_model(served, asked)
    truncate = getattr(asked, "truncation", None) if asked.truncate is None else asked.truncate
    scores, usage = await served.reranker.apredict_with_usage(
        pairs,
        activation="identity" if raw else "sigmoid",
        on_overlong=None if truncate is None else "truncate" if truncate else "error",
        max_tokens=state.settings.max_request_tokens,
    )
    return served, scores, usage


def _check_model(served: ServedModel, asked: _Asked) -> None:
    """Refuse what this model cannot do, rather than leave it out."""
    labels, limit = served.reranker.num_labels, served.reranker.max_seq_length
    if labels != 1:
        raise Problem(400, f"{served.name} gives {labels} scores per pair; only one tells an order", param="model")
    for name in ("max_tokens_per_doc", "truncate_prompt_tokens"):
        said = getattr(asked, name, None)
        if said is not None and not (said == -1 and name == "truncate_prompt_tokens") and (not limit or said < limit):
            limited = f"the model's own limit ({limit} tokens per pair)" if limit else "no limit"
            raise Problem(400, f"{name} is {said}; {served.name} cuts at {limited}, leave it out", param=name)
    direction, own = getattr(asked, "truncation_direction", None), served.facts.get("truncation_side", "right")
    if direction not in (None, own):
        problem = f"{served.name} cuts texts on the {own}; send truncation_direction {own!r} or leave it out"
        raise Problem(422, problem, param="truncation_direction")


def _wants_raw(asked: _Asked) -> bool:
    """The model's own numbers, asked for in either way."""
    activation = getattr(asked, "use_activation", None)
    if asked.raw_scores is not None and activation is not None and asked.raw_scores == activation:
        raise Problem(400, "raw_scores and use_activation contradict each other; send one", param="raw_scores")
    return bool(asked.raw_scores) or activation is False


def _best(scores: Embeddings, top_n: int | None) -> list[int]:
    """Places by score, equal ones as they came; 0 is all."""
    return [ranked.corpus_id for ranked in ranking(scores, top_n or None)]


def _pairs(asked: ScoreRequest) -> list[Pair]:
    """One text with each of many, or each with its own."""
    first = _either(asked, "text_1", "queries")
    second = _either(asked, "text_2", "documents")
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise Problem(400, f"{len(first)} and {len(second)} texts; send one and many, or as many of both")
    return list(zip(first, second, strict=True))


def _either(asked: ScoreRequest, one: str, other: str) -> list[str]:
    said: list[list[str]] = [texts for name in (one, other) if (texts := getattr(asked, name)) is not None]
    if len(said) != 1:
        raise Problem(400, f"send {one} or {other}, {'not both' if said else 'neither is there'}", param=one)
    return said[0]


def _used(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens}


def _names(body: bytes) -> frozenset[str]:
    """The names of a body's fields; what is no JSON object has none, and is refused as such later."""
    try:
        content: Any = from_json(body)
    except ValueError:
        return frozenset()
    return frozenset(content) if isinstance(content, dict) else frozenset()
