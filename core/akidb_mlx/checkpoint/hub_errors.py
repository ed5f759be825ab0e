"""What went wrong with the Hub, and the remedy: one line for each kind of failure, with the endpoint in use."""

import re
from typing import Any, Final

from akidb_mlx.checkpoint.waiting import Limit, Unanswered, timed_out
from akidb_mlx.checkpoint.well_known import did_you_mean

__all__ = ["called", "command", "endpoint", "explain"]

_HUB: Final = "https://huggingface.co"
_FILE_LIMIT: Final = "HF_HUB_DOWNLOAD_TIMEOUT"
_LOGIN: Final = "run: hf auth login, or set HF_TOKEN"
_OF_ANSWERS: Final = (ValueError, TypeError, KeyError, AttributeError, AssertionError)


def called(model: str, revision: str | None) -> str:
    """A model as messages name it."""
    return f"{model} at revision {revision}" if revision else model


def command(model: str, revision: str | None) -> str:
    """The command that brings a model here."""
    return f"akidb-mlx download {model}" + (f" --revision {revision}" if revision else "")


def endpoint() -> str:
    """The server that is asked, without a password that its URL may hold."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def explain(error: Exception, model: str, revision: str | None) -> str:
    """One failure to get a model, in one line: what it was, where, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client's "not here" hides why
    name, again = called(model, revision), command(model, revision)
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_answer(error, model, revision)
    if timed_out(error):  # the client's own limit, after several tries
        error = Unanswered(Limit(constants.HF_HUB_DOWNLOAD_TIMEOUT, "its files, several times", _FILE_LIMIT))
    if isinstance(error, Unanswered):
        seconds, what, setting = error.limit
        return (
            f"{name} is not here: waited {seconds:g} s ({setting}) for {what} from {endpoint()}; "
            f"check network, proxy and HF_ENDPOINT, then run: {again}"
        )
    if isinstance(error, (hub.FileMetadataError, *_OF_ANSWERS)):
        return (
            f"{name} is not here, and {endpoint()} does not answer as the Hub does ({first_line(error)}): a page to "
            f"log in to a network, or no mirror; check HF_ENDPOINT, then run: {again}"
        )
    if _is_of_network(error):
        return (
            f"{name} is not here, and the connection to {endpoint()} failed ({first_line(error)}); check network, "
            f"proxy and HF_ENDPOINT, then run (what came is kept): {again}"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name} cannot be kept here ({first_line(error)}); set HF_HOME or cache_dir to a folder for it"
    return f"{name} could not be downloaded from {endpoint()} ({first_line(error)}); what came is kept: run {again}"


def _explain_answer(error: Any, model: str, revision: str | None) -> str:
    """An HTTP status that is no success."""
    from huggingface_hub import errors as hub

    name, where, again = called(model, revision), endpoint(), command(model, revision)
    status, headers = error.response.status_code, error.response.headers
    page = f"{_HUB}/{model}"
    if isinstance(error, hub.GatedRepoError):
        return f"{name} is gated ({where}, {status}): ask for access at {page}, then log in ({_LOGIN})"
    if isinstance(error, hub.DisabledRepoError):
        return f"{name} is disabled ({where}, {status}): nobody can get it; take another model"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"{model} has no revision {revision or 'main'!r} at {where}; it has those of {page}/commits/main"
    if status == 401 and "invalid credentials" in headers.get("X-Error-Message", "").lower():
        return f"{where} does not know your token (401), so {name} is refused; {_LOGIN} to a valid one"
    if status in (401, 404) and not isinstance(error, hub.EntryNotFoundError):
        return (
            f"{name} is neither a folder nor a model that {where} shows ({status})"
            f"{did_you_mean(model) or '; check the name.'} Or it is private: then {_LOGIN}"
        )
    if status == 403:
        return f"{name} is refused by {where} (403): your login may not read it; {_LOGIN} to one that may read {page}"
    if status == 429:
        return f"{where} had too many requests (429) and gives no {name} now; {_when(headers)}, then run: {again}"
    if status >= 500:
        return f"{where} fails ({status}), and {name} is not here; try later or set another HF_ENDPOINT: run {again}"
    return f"{name} is refused by {where} ({first_line(error)}); check HF_ENDPOINT, then run: {again}"


def _when(headers: Any) -> str:
    """How long to wait by a 429's headers; the Hub says it in `RateLimit`, others in `Retry-After`."""
    said = str(headers.get("Retry-After", "")).strip()
    reset = re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))
    said = said or (reset.group(1) if reset else "")
    return (f"wait {said} s" if said.isdecimal() else f"wait until {said}") if said else "wait some minutes"


def _is_of_network(error: Exception) -> bool:
    """Whether it is of the client's HTTP library, which is one of two, or of the system's."""
    return any(kind.__name__ in ("TransportError", "ConnectionError") for kind in type(error).__mro__)


def first_line(error: BaseException) -> str:
    """An error's kind and the first line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
