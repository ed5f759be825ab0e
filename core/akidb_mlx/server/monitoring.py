"""What operators ask for: /health, /metrics, /stats, the OpenAPI document and the page at /."""

import asyncio
import base64
import hashlib
import re
from importlib import resources

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

import akidb_mlx
from akidb_mlx.device.memory import resident_bytes
from akidb_mlx.server.metrics import joined
from akidb_mlx.server.openapi import document
from akidb_mlx.server.schemas import Health, HealthStatus, ModelStats, Stats, Workers
from akidb_mlx.server.state import State, state_of
from akidb_mlx.server.team import OWN, add_up

__all__ = ["health", "metrics", "openapi", "page", "stats"]


async def health(request: Request) -> Response:
    """200 where requests are welcome, else 503."""
    state = state_of(request)
    worker = all(model.model.healthy for model in state.models.loaded)
    ready = not state.stopping and not state.loading
    status: HealthStatus = "stopping" if state.stopping else "unhealthy" if not worker else "ok" if ready else "loading"
    if not worker:
        _revive(state)
    answer = Health(status=status, ready=ready, worker=worker, version=akidb_mlx.__version__)
    if (team := state.team) is not None:
        answer.workers = Workers(answering=team.index, serving=team.serving, of=len(team))
    return JSONResponse(answer.model_dump(exclude_none=True), 200 if status == "ok" else 503)


def _revive(state: State) -> None:
    """A load balancer stops sending requests to an unhealthy server, and only a request would restart the thread."""
    for model in state.models.loaded:
        asking = asyncio.get_running_loop().run_in_executor(None, model.model.info)
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # the next /health says it


async def metrics(request: Request) -> Response:
    """Prometheus' text; of several workers all of theirs."""
    state = state_of(request)
    text = state.metrics.text()
    if state.team is not None and request.url.query != OWN:
        others = await state.team.ask_others("/metrics", state.api_key)
        text = await asyncio.to_thread(joined, {state.team.index: text, **others})
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def stats(request: Request) -> Response:
    """Which models are in memory, since when unused, and what they take; of several workers the sum."""
    state = state_of(request)
    models = state.models
    known = {model.name: model.model for model in models.loaded}
    counted = {name: model.stats() for name, model in known.items()}
    told = {
        name: ModelStats.model_validate(
            {"loaded": False, "memory_limit_mb": config.memory_limit_mb, "keep_alive": config.keep_alive}
            | counted.get(name, {})
            | {"kind": models.kind(name)}
        )
        for name, config in models.configs.items()
    }
    weights = max((model.get("process_weights_bytes", 0) for model in counted.values()), default=0)
    answer = Stats(models=told, weights_bytes=weights, resident_bytes=resident_bytes())
    whole = answer.model_dump()
    if state.team is not None and request.url.query != OWN:
        others = await state.team.ask_others("/stats", state.api_key)
        whole = add_up([whole, *map(orjson.loads, others.values())])
    return JSONResponse(whole)


async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return JSONResponse(document(list(state_of(request).models.configs)))


_PAGE = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")


def _hashes(element: str) -> str:
    """The page's own scripts and styles are the only ones that a browser may run, and it may talk to us alone."""
    inline = re.findall(f"<{element}>(.*?)</{element}>", _PAGE, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inline)


_PAGE_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def page(_: Request) -> Response:
    """The page at /."""
    return HTMLResponse(_PAGE, headers=_PAGE_HEADERS)
