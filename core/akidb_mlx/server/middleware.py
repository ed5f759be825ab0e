"""What every request passes: who may, how many at a time; its number, its line in the log, its figures."""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from akidb_mlx.server.problems import Problem, problem_response
from akidb_mlx.server.state import State

__all__ = ["Gate"]

_log = logging.getLogger(__name__)
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
# Without a key: whether the server lives, and the page that asks for the key.
_OPEN = frozenset({"/", "/health"})
# Polled by monitoring; exempt from max_requests.
_MACHINES = frozenset({"/health", "/metrics"})
_CLIENT_LEFT = 499


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, state: State, routes: frozenset[str]) -> None:
        """`routes` are the paths that figures name; any other is "other"."""
        self._app = app
        self._state = state
        self._routes = routes
        self._in_flight = 0
        self._turns = asyncio.Semaphore(state.settings.max_requests)
        self._key_digest = _digest(state.api_key) if state.api_key is not None else None
        own = {"localhost", "127.0.0.1", "[::1]", state.settings.host} if state.settings.is_loopback else set()
        self._hosts = frozenset(own and own | {host.lower() for host in state.settings.allowed_hosts})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        fields: dict[str, Any] = {}
        scope["log_fields"] = fields
        number = _request_id(scope)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), number, fields)
            await send(message)

        self._in_flight += 1
        self._state.metrics.in_flight.inc()
        try:
            _as_origin_form(scope)
            self._check(scope)
            async with self._turn(scope):
                await self._app(scope, receive, send_with_headers)
        except Problem as problem:
            await problem_response(problem, scope["path"], self._state.turned_away)(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_LEFT
        except asyncio.CancelledError:  # uvicorn's, when a shutdown has waited long enough
            if status or not self._state.stopping:
                raise
            too_late = Problem(503, "the server shut down before this was done", code="shutting_down")
            await problem_response(too_late, scope["path"], self._state.turned_away)(scope, receive, send_with_headers)
        except Exception:
            status = 500
            raise
        finally:
            self._in_flight -= 1
            self._state.metrics.in_flight.dec()
            self._record(scope, status or _CLIENT_LEFT, time.monotonic() - began, number, fields)

    def _add_headers(self, headers: MutableHeaders, number: str, fields: dict[str, Any]) -> None:
        headers["X-Request-Id"] = number
        if truncated := fields.get("truncated_texts"):
            headers["X-Truncated-Texts"] = str(truncated)
        if self._state.stopping:
            headers["Connection"] = "close"

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._hosts and "host" in headers and _host(headers) not in self._hosts:
            # A page whose name was made to point here (DNS rebinding) would otherwise read the answers; its browser
            # always says the name.
            raise Problem(403, f"the host {headers.get('host', '')!r} is not served here (allowed_hosts)")
        if self._key_digest is not None and scope["path"] not in _OPEN:
            sent = _digest(_bearer(headers))
            if not hmac.compare_digest(sent, self._key_digest):
                raise Problem(
                    401,
                    "send the API key as `Authorization: Bearer KEY`",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if self._in_flight > self._state.settings.max_requests and not _waits(scope) and scope["path"] not in _MACHINES:
            raise Problem.too_many(f"{self._in_flight - 1} requests wait already (max_requests)", 0.5)

    @asynccontextmanager
    async def _turn(self, scope: Scope) -> AsyncIterator[None]:
        """Texts that come beyond `max_requests` wait, unread, in the order of their coming.

        Some applications send each chunk of a file as a request of its own, all at once, and give up at the first that
        is refused.
        """
        if not _waits(scope):
            yield
            return
        limit = self._state.settings.request_timeout_s
        try:
            async with asyncio.timeout(limit):
                await self._turns.acquire()
        except TimeoutError:
            raise Problem.too_many(f"no turn came within {limit:g} s (request_timeout_s)", 0.5) from None
        try:
            yield
        finally:
            self._turns.release()

    def _record(self, scope: Scope, status: int, seconds: float, number: str, fields: dict[str, Any]) -> None:
        route = scope["path"] if scope["path"] in self._routes else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._state.metrics.answered(route, method, status, seconds)
        about = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "duration_ms": round(seconds * 1000, 2),
            "request_id": number,
            "client": (scope.get("client") or ("",))[0],
            **fields,
        }
        level = logging.DEBUG if route in _MACHINES and status == 200 else logging.INFO
        # Behind the answer, which is written in the loop's next turn: a line takes longer than most of the rest here.
        asyncio.get_running_loop().call_soon(partial(_log.log, level, "request", extra={"fields": about}))


def _waits(scope: Scope) -> bool:
    """Whether a request brings texts."""
    return bool(scope["method"] == "POST")


def _as_origin_form(scope: Scope) -> None:
    """`POST http://HOST/path`, as proxies and some clients write it: its host counts, whatever the header says."""
    scheme, colons, rest = scope["path"].partition("://")
    if not colons or scheme.lower() not in {"http", "https"}:
        return
    authority, _, path = rest.partition("/")
    scope["path"] = f"/{path}"
    scope["raw_path"] = b"/" + scope["raw_path"].partition(b"://")[2].partition(b"/")[2]
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    scope["headers"] = [*headers, (b"host", authority.rpartition("@")[2].encode("latin-1", "replace"))]


def _digest(text: str) -> bytes:
    """Of one length, so that comparing takes the same time whatever was sent."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _host(headers: Headers) -> str:
    """The host without its port."""
    host = headers.get("host", "").lower()
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).removesuffix(".")


def _bearer(headers: Headers) -> str:
    """The key that was sent; the scheme's name has no case, and more than one space may follow (RFC 9110)."""
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _request_id(scope: Scope) -> str:
    """The client's own, where it is short and plain, else a new one."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if 0 < len(sent) <= 128 and sent.isascii() and sent.isprintable() else secrets.token_hex(8)
