"""Errors as answers: a status, and OpenAI's shape of an error. Never a traceback."""

import math
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from akidb_mlx import errors

__all__ = ["HANDLERS", "RERANK_PATHS", "Problem", "problem_response"]

# Whose clients look for a reason under `message` (Cohere's) or `detail` (Jina's, Voyage's).
RERANK_PATHS = frozenset({"/rerank", "/v1/rerank", "/v2/rerank", "/score"})
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
    ) -> None:
        """`param` names the field at fault, `code` tells a program what is wrong."""
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    @classmethod
    def too_many(cls, message: str, seconds: float) -> "Problem":
        """429, with the time to wait."""
        return cls(429, message, code="rate_limit_exceeded", headers=_wait(seconds))


def _wait(seconds: float) -> dict[str, str]:
    """The time to wait: in whole seconds for everybody, in milliseconds for OpenAI's clients."""
    return {"Retry-After": str(max(1, math.ceil(seconds))), "Retry-After-Ms": str(max(1, round(seconds * 1000)))}


def problem_response(problem: Problem, path: str) -> Response:
    """A Problem as an answer to who asked at `path`."""
    kind = "server_error" if problem.status >= 500 else _TYPES.get(problem.status, "invalid_request_error")
    error = {"message": str(problem), "type": kind, "param": problem.param, "code": problem.code}
    also = {"message": str(problem), "detail": str(problem)} if path in RERANK_PATHS else {}
    return JSONResponse({"error": error, **also}, problem.status, problem.headers)


def _from_library(error: Exception) -> Problem:
    if isinstance(error, errors.QueueFullError):
        return Problem.too_many(str(error), error.retry_after_s)
    if isinstance(error, errors.InputError):
        return Problem(400, str(error))
    if isinstance(error, errors.ClosedError):
        return Problem(503, "the server is shutting down", code="shutting_down")
    if isinstance(error, errors.BackendError) and error.retry_after_s is not None:
        return Problem(503, str(error), code="out_of_memory", headers=_wait(error.retry_after_s))
    if isinstance(error, errors.BackendError):
        return Problem(500, str(error), code="backend_error")
    return Problem(500, f"the model cannot be loaded: {error}", code="model_not_loaded")


async def _library(request: Request, error: Exception) -> Response:
    return problem_response(_from_library(error), request.url.path)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error, request.url.path)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: f"no such path: {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    problem = Problem(error.status_code, said.get(error.status_code, error.detail), headers=error.headers)
    return problem_response(problem, request.url.path)


async def _unexpected(request: Request, _: Exception) -> Response:
    """The traceback goes to the log alone."""
    return problem_response(Problem(500, "the server failed at this request; its log says why"), request.url.path)


HANDLERS = {
    Problem: _problem,
    HTTPException: _http,
    errors.AkiDBMLXError: _library,
    Exception: _unexpected,
}
