"""What the endpoints share, and how long they wait for the models."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect, Request

from akidb_mlx.any_model import ARTICLES
from akidb_mlx.embedder import Usage
from akidb_mlx.server.metrics import Metrics
from akidb_mlx.server.models import Addressed, Models, ServedModel
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.served import OPTIONS, ROUTES, ServedKind, serves
from akidb_mlx.server.settings import ServerSettings
from akidb_mlx.server.team import Team
from akidb_mlx.server.turned_away import TurnedAway

__all__ = ["State", "note", "state_of"]

T = TypeVar("T")


@dataclass
class State:
    """One server."""

    settings: ServerSettings
    models: Models
    api_key: str | None
    team: Team | None = None
    """The other workers behind the same address, where there are several."""
    metrics: Metrics = field(default_factory=Metrics)
    turned_away: TurnedAway = field(default_factory=TurnedAway)
    stopping: bool = False
    """From the beginning of a shutdown."""

    @property
    def loading(self) -> bool:
        """Whether models that should be there from the start are not yet."""
        return self.preloads and sum(1 for _ in self.models.loaded) < len(self.models.configs)

    @property
    def preloads(self) -> bool:
        """Whether the models are loaded at the start: asked for, or just one."""
        asked = self.settings.preload
        return len(self.models.configs) == 1 if asked is None else asked

    def addressed(self, name: str) -> Addressed:
        """What a request's model name stands for; a Problem that lists what is served."""
        known = self.models.addressed(name)
        if known is None:
            served = ", ".join(self.models.configs)
            raise Problem(
                404, f"no model is served as {name!r}; there is {served}", param="model", code="model_not_found"
            )
        return known

    def name(self, said: str | None, kind: ServedKind) -> str:
        """What a request says, or without it the first model of this kind; a Problem where there is none."""
        name = said or self.models.default(kind)
        if name is None:
            what = ARTICLES[kind].partition(" ")[2]
            message = f"no {what} is served here; start the server with {OPTIONS[kind]} MODEL"
            raise Problem(404, message, param="model", code="model_not_found")
        return name

    def only_name(self, said: str | None, kind: ServedKind) -> str:
        """What a request says, or without it the one model of this kind; a Problem where there are none or several."""
        names = self.models.names(kind)
        if said is None and len(names) > 1:
            raise Problem(400, f"say which model; there are {', '.join(names)}", param="model")
        return self.name(said, kind)

    async def model(self, name: str, kind: ServedKind) -> ServedModel:
        """The model of a request's name, loaded if need be; a Problem that names the right routes of another kind."""
        known = self.addressed(name).name
        found = self.models.kind(known)
        if not serves(found, kind):
            there = ", ".join(self.models.names(kind)) or "none"
            what = ARTICLES[kind].partition(" ")[2]
            raise Problem(
                400,
                f"{name!r} is {ARTICLES[found]}: POST {ROUTES[found]} take it; each {what} that is served: {there}",
                param="model",
                code="wrong_kind",
            )
        return await self.models.get(known)

    async def answer(self, request: Request, work: Awaitable[T]) -> T:
        """Work for a request whose body is read; cancelled when the client leaves or the time is up.

        Raises:
            Problem: 504. ClientDisconnect.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        except TimeoutError:
            if task.done():  # the work's own
                raise
            limit = self.settings.request_timeout_s
            raise Problem(504, f"no answer within {limit:g} s (request_timeout_s)", code="timeout") from None
        finally:
            gone.cancel()
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def state_of(request: Request) -> State:
    """The server that a request came to."""
    return cast(State, request.app.state.server)


def note(request: Request, model: str, texts: int, usage: Usage) -> None:
    """For the request's line in the log."""
    fields: dict[str, Any] = request.scope["log_fields"]
    fields |= {"model": model, "texts": texts, "tokens": usage.tokens}
    if usage.truncated_texts:
        fields["truncated_texts"] = usage.truncated_texts
