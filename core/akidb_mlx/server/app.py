"""The application: which path leads where."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from akidb_mlx.server import akidb, cohere, forms, monitoring, ollama, openai, rerank, rows
from akidb_mlx.server.middleware import Gate
from akidb_mlx.server.models import Models
from akidb_mlx.server.problems import HANDLERS
from akidb_mlx.server.settings import ServerSettings
from akidb_mlx.server.state import State
from akidb_mlx.server.team import Team

__all__ = ["create_app"]

_ROUTES = [
    Route("/api/v1/rows", rows.rows, methods=["POST"]),
    Route("/v1/embeddings", openai.create_embeddings, methods=["POST"]),
    Route("/v1/models", openai.list_models, methods=["GET"]),
    Route("/v1/models/{model:path}", openai.show_model, methods=["GET"]),
    Route("/api/v1/embed", akidb.embed, methods=["POST"]),
    Route("/api/embed", ollama.embed, methods=["POST"]),
    Route("/api/embeddings", ollama.embeddings, methods=["POST"]),
    Route("/api/ps", ollama.running, methods=["GET"]),
    Route("/api/tags", ollama.tags, methods=["GET"]),
    Route("/api/show", ollama.show, methods=["POST"]),
    Route("/api/version", ollama.version, methods=["GET"]),
    Route("/v2/embed", cohere.embed, methods=["POST"]),
    Route("/rerank", rerank.rerank, methods=["POST"]),
    Route("/v1/rerank", rerank.rerank_documents, methods=["POST"]),
    Route("/v2/rerank", rerank.rerank_documents, methods=["POST"]),
    Route("/score", rerank.score, methods=["POST"]),
    Route("/embed_sparse", forms.embed_sparse, methods=["POST"]),
    Route("/pooling", forms.pooling, methods=["POST"]),
    Route("/api/v1/hybrid", forms.hybrid, methods=["POST"]),
    Route("/api/v1/terms", forms.terms, methods=["POST"]),
    Route("/api/v1/matches", forms.matches, methods=["POST"]),
    Route("/api/v1/tokens", rows.count_tokens, methods=["POST"]),
    Route("/api/v1/describe", rows.describe, methods=["POST"]),
    Route("/health", monitoring.health, methods=["GET"]),
    Route("/stats", monitoring.stats, methods=["GET"]),
    Route("/metrics", monitoring.metrics, methods=["GET"]),
    Route("/openapi.json", monitoring.openapi, methods=["GET"]),
    Route("/", monitoring.page, methods=["GET"]),
]


def create_app(
    models: Models, settings: ServerSettings | None = None, api_key: str | None = None, team: Team | None = None
) -> Starlette:
    """An ASGI application that serves these models; it closes them when it ends. `team`: one worker of several."""
    state = State(settings or ServerSettings(), models, api_key, team)
    state.metrics.watch(models)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await models.close()

    gate = Middleware(Gate, state=state, routes=frozenset(route.path for route in _ROUTES))
    cors = Middleware(
        CORSMiddleware,
        allow_origins=state.settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # OpenAI's clients send many of their own; whose pages may ask is said by the origins
        expose_headers=["Retry-After", "X-Request-Id", "X-Truncated-Texts"],
    )
    middleware = [cors, gate] if state.settings.cors_origins else [gate]
    app = Starlette(routes=_ROUTES, middleware=middleware, exception_handlers=HANDLERS, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.server = state
    return app
