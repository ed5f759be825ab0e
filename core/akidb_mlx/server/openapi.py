"""The OpenAPI document, from the schemas."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import akidb_mlx
from akidb_mlx import wire
from akidb_mlx.server import cohere_schemas, form_schemas, ollama_schemas, rerank_schemas, row_schemas, schemas

__all__ = ["document"]

_PROBLEMS = {
    400: "The request is wrong; the message says where.",
    401: "The API key is missing or wrong.",
    403: "The Host header names another host.",
    404: "No such model, or path.",
    409: "The model's fingerprint is not the one that was asked for.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The model does not cut texts there.",
    429: "The queue is full: try again after Retry-After.",
    500: "The server failed.",
    503: "The server is shutting down.",
    504: "No answer in time.",
}
_NAMES_MODEL = (
    "AkiDBEmbedRequest",
    "CohereEmbedRequest",
    "DescribeRequest",
    "EmbeddingsRequest",
    "HybridRequest",
    "MatchesRequest",
    "OllamaEmbedRequest",
    "OllamaEmbeddingsRequest",
    "OllamaShowRequest",
    "PoolingRequest",
    "RerankRequest",
    "RerankTextsRequest",
    "RowsRequest",
    "ScoreRequest",
    "SparseRequest",
    "TermsRequest",
    "TokensRequest",
)
_GET, _POST = (401, 403, 404, 429, 500), (400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)


def document(models: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1, with the names of the models served as examples."""
    used = [
        getattr(module, name)
        for module in (schemas, cohere_schemas, form_schemas, ollama_schemas, rerank_schemas, row_schemas)
        for name in module.__all__
    ]
    template = "#/components/schemas/{model}"
    _, definitions = models_json_schema([(one, "validation") for one in used], ref_template=template)
    parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    for name in _NAMES_MODEL:
        definitions["$defs"][name]["properties"]["model"]["examples"] = list(models)
    unhealthy = {"503": _json("Not ready, or the worker has ended.", schemas.Health)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "akidb-mlx", "version": akidb_mlx.__version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/embeddings": {
                "post": _post("Embed texts, as OpenAI does", schemas.EmbeddingsRequest, schemas.EmbeddingsResponse)
            },
            "/api/v1/embed": {
                "post": _post("Embed texts, as AkiDB asks", schemas.AkiDBEmbedRequest, schemas.AkiDBEmbedResponse)
            },
            "/v2/embed": {
                "post": _post(
                    "Embed texts, as Cohere does", cohere_schemas.CohereEmbedRequest, cohere_schemas.CohereEmbedResponse
                )
            },
            **_form_paths(),
            **_ollama_paths(),
            **_rerank_paths(),
            **_row_paths(),
            "/v1/models": {"get": _get("The models served", _json("The models.", schemas.ModelList))},
            "/v1/models/{model}": {
                "get": _get(
                    "One of them",
                    _json("The model.", schemas.ModelCard),
                    parameters=[parameter | {"example": models[0]}],
                )
            },
            "/health": {"get": _get("Liveness and readiness", _json("Welcome.", schemas.Health), unhealthy)},
            "/stats": {"get": _get("Which models are in memory", _json("The models.", schemas.Stats))},
            "/metrics": {"get": _get("Prometheus' figures", _text("text/plain"))},
            "/openapi.json": {"get": _get("This document", _text("application/json", "object"))},
            "/": {"get": _get("A page to try it", _text("text/html"))},
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _form_paths() -> dict[str, Any]:
    said = form_schemas
    entries = {"type": "array", "items": {"type": "array", "items": _reference(said.SparseValue)}}
    sparse = {
        "summary": "Sparse rows, as text-embeddings-inference gives them",
        "requestBody": _body(_reference(said.SparseRequest)),
        "responses": {"200": {"description": "The rows.", **_content(entries)}, **_problems((*_POST, 422))},
    }
    return {
        "/embed_sparse": {"post": sparse},
        "/pooling": {
            "post": _post("A vector per token, as vLLM gives them", said.PoolingRequest, said.PoolingResponse)
        },
        "/api/v1/hybrid": {"post": _post("All forms in one pass", said.HybridRequest, said.HybridResponse)},
        "/api/v1/terms": {"post": _post("A text's heaviest terms", said.TermsRequest, said.TermsResponse)},
        "/api/v1/matches": {"post": _post("Tokens that match", said.MatchesRequest, said.MatchesResponse)},
    }


def _ollama_paths() -> dict[str, Any]:
    said = ollama_schemas

    def post(summary: str, request: type[BaseModel], response: type[BaseModel]) -> dict[str, Any]:
        answers = {"200": _json("It.", response), **_problems(_POST, said.OllamaErrorResponse)}
        return {"post": {"summary": summary, "requestBody": _body(_reference(request)), "responses": answers}}

    def get(summary: str, response: type[BaseModel]) -> dict[str, Any]:
        answers = {"200": _json("It.", response), **_problems(_GET, said.OllamaErrorResponse)}
        return {"get": {"summary": summary, "responses": answers}}

    return {
        "/api/embed": post("Embed texts, as Ollama does", said.OllamaEmbedRequest, said.OllamaEmbedResponse),
        "/api/embeddings": post(
            "Embed a text, as Ollama did", said.OllamaEmbeddingsRequest, said.OllamaEmbeddingsResponse
        ),
        "/api/show": post("About a model, as Ollama does", said.OllamaShowRequest, said.OllamaShowResponse),
        "/api/ps": get("The embedders that are in memory, as Ollama lists them", said.OllamaRunningModels),
        "/api/tags": get("The embedders served, as Ollama lists them", said.OllamaModels),
        "/api/version": get("The version, where Ollama's clients ask", said.OllamaVersion),
    }


def _rerank_paths() -> dict[str, Any]:
    documents, texts = rerank_schemas.RerankRequest, rerank_schemas.RerankTextsRequest
    ranked = [_reference(rerank_schemas.RerankResponse), _reference(rerank_schemas.VoyageRerankResponse)]
    ranked_texts = {"type": "array", "items": _reference(rerank_schemas.RankedText)}
    either = {"anyOf": [_reference(documents), _reference(texts)]}
    answers = {"anyOf": [*ranked, ranked_texts]}
    by_documents = _rerank("Order documents by a query", _reference(documents), {"anyOf": ranked})
    scores = _reference(rerank_schemas.ScoreRequest), _reference(rerank_schemas.ScoreResponse)
    return {
        "/rerank": {"post": _rerank("Order documents or texts by a query", either, answers)},
        "/v1/rerank": {"post": by_documents},
        "/v2/rerank": {"post": by_documents},
        "/score": {"post": _rerank("Score pairs, as vLLM does", *scores)},
    }


def _row_paths() -> dict[str, Any]:
    said = row_schemas
    headers = {
        name: {"description": told, "schema": {"type": "string"}}
        for name, told in {
            wire.ARRAYS: "The body's arrays in turn, each NAME DTYPE SIZE…, with `; ` between them.",
            wire.FINGERPRINT: "Of everything that decides the rows.",
            wire.DIMENSION: "Width of the rows.",
            wire.TOKENS: "Tokens that the model read.",
            wire.TRUNCATED: "Texts that were cut.",
            wire.MAX_SEQ_LENGTH: "Tokens after which texts are cut.",
        }.items()
    }
    answer = {
        "description": "Numbers, little endian, rows first.",
        "headers": headers,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    rows = {
        "summary": "Rows or scores as bytes",
        "requestBody": _body(_reference(said.RowsRequest)),
        "responses": {"200": answer, **_problems((*_POST, 409))},
    }
    return {
        "/api/v1/rows": {"post": rows},
        "/api/v1/tokens": {"post": _post("How many tokens texts have", said.TokensRequest, said.TokensResponse)},
        "/api/v1/describe": {
            "post": _post("What a model is, with a client's settings", said.DescribeRequest, said.DescribeResponse)
        },
    }


def _rerank(summary: str, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    problems = _problems((*_POST, 422))
    return {
        "summary": summary,
        "requestBody": _body(request),
        "responses": {"200": {"description": "The scores.", **_content(answer)}, **problems},
    }


def _post(summary: str, request: type[BaseModel], response: type[BaseModel]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": _body(_reference(request)),
        "responses": {"200": _json("The vectors.", response), **_problems(_POST)},
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, **_content(schema)}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _get(summary: str, answer: dict[str, Any], others: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": answer, **_problems(_GET), **(others or {})}, **more}


def _problems(statuses: tuple[int, ...], schema: type[BaseModel] = schemas.ErrorResponse) -> dict[str, Any]:
    return {str(status): _json(_PROBLEMS[status], schema) for status in statuses}


def _json(description: str, schema: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, **_content(_reference(schema))}


def _text(kind: str, type_: str = "string") -> dict[str, Any]:
    return {"description": "It.", "content": {kind: {"schema": {"type": type_}}}}


def _reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema.__name__}"}
