"""Errors as answers: a status, and one body that every client finds the reason in. Never a traceback."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from akidb_mlx import errors
from akidb_mlx.server.paths import is_ollamas, where_instead
from akidb_mlx.server.turned_away import TurnedAway
from akidb_mlx.wire import ERROR

__all__ = ["HANDLERS", "Problem", "problem_response"]

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        error: type[errors.AkiDBMLXError] | None = None,
    ) -> None:
        """`param` names the field at fault, `code` tells a program what is wrong.

        `retry_after_s`: how long what stands in the way is expected to last. `error`: the class that this is without a
        server.
        """
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers
        self.retry_after_s = retry_after_s
        self.error = error

    @classmethod
    def too_many(cls, message: str, seconds: float) -> "Problem":
        """429, with the time to wait."""
        return cls(429, message, code="rate_limit_exceeded", retry_after_s=seconds)


def problem_response(problem: Problem, path: str, turned_away: TurnedAway) -> Response:
    """A Problem as an answer to who asked at `path`.

    OpenAI's clients read `error`, which Ollama's want as a text; Cohere's read `message`, Jina's and Voyage's `detail`.
    """
    message = str(problem)
    kind = "server_error" if problem.status >= 500 else _TYPES.get(problem.status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": problem.param, "code": problem.code}
    body = {"error": message if is_ollamas(path) else error, "message": message, "detail": message}
    again = {} if problem.retry_after_s is None else turned_away.headers(problem.retry_after_s)
    named = {} if problem.error is None else {ERROR: problem.error.__name__}
    return JSONResponse(body, problem.status, {**(problem.headers or {}), **again, **named})


def _answer(problem: Problem, request: Request) -> Response:
    return problem_response(problem, request.url.path, request.app.state.server.turned_away)


def _from_library(error: errors.AkiDBMLXError) -> Problem:
    if isinstance(error, errors.QueueFullError):
        problem = Problem.too_many(str(error), error.retry_after_s)
    elif isinstance(error, errors.InputError):
        problem = Problem(400, str(error))
    elif isinstance(error, errors.ClosedError):
        problem = Problem(503, "the server is shutting down", code="shutting_down")
    elif isinstance(error, errors.BackendError) and error.retry_after_s is not None:
        problem = Problem(503, str(error), code="out_of_memory", retry_after_s=error.retry_after_s)
    elif isinstance(error, errors.BackendError):
        problem = Problem(500, str(error), code="backend_error")
    else:
        problem = Problem(500, f"the model cannot be loaded: {error}", code="model_not_loaded")
    problem.error = type(error)
    return problem


async def _library(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.AkiDBMLXError)
    return _answer(_from_library(error), request)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _answer(error, request)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    instead = where_instead(path)
    said = {404: f"no such path: {path}; {instead}", 405: f"{request.method} is not for {path}"}
    if error.status_code == 405 and error.headers:
        said[405] += f"; {error.headers.get('Allow')} is" if path != "/" else f"; {instead}"
    problem = Problem(error.status_code, said.get(error.status_code, error.detail), headers=error.headers)
    return _answer(problem, request)


async def _unexpected(request: Request, _: Exception) -> Response:
    """The traceback goes to the log alone."""
    return _answer(Problem(500, "the server failed at this request; its log says why"), request)


HANDLERS = {
    Problem: _problem,
    HTTPException: _http,
    errors.AkiDBMLXError: _library,
    Exception: _unexpected,
}
