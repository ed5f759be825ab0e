"""A model that a server has: asked what it is, pinned to that, and asked for rows."""

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from akidb_mlx import wire
from akidb_mlx.config.model_config import ModelConfig, fields_that_change
from akidb_mlx.effective.prompts import Prompts
from akidb_mlx.errors import AkiDBMLXError, BackendError, ConfigError, InputError
from akidb_mlx.remote.address import Address
from akidb_mlx.remote.answers import named_error
from akidb_mlx.remote.bodies import Body, Limits
from akidb_mlx.remote.connection import Answer, connect, hold, release

__all__ = ["Kind", "RemoteModel", "Rows", "settings_of"]

_log = logging.getLogger(__name__)
_ROWS: Final = "/api/v1/rows"
Rows = dict[str, Any]
"""Arrays by name, as `wire` has them."""


@dataclass(frozen=True)
class Kind:
    """A kind of model, as a server knows it."""

    name: str
    option: str
    """Of `akidb-mlx serve`."""


@dataclass(eq=False)
class RemoteModel:
    """One model of one server with a client's settings, as it was when it was first asked."""

    address: Address
    kind: Kind
    name: str
    settings: Mapping[str, Any]
    described: Mapping[str, Any] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    @classmethod
    def meet(cls, address: Address, kind: Kind, config: ModelConfig, fingerprint: str | None) -> "RemoteModel":
        """Ask what it is; ConfigError where its fingerprint is not the one that is wanted, and what `describe` raises.

        Whoever gets it has to `release` it.
        """
        hold(address)
        try:
            model = cls(address, kind, config.model, settings_of(config))
            model.described = model.describe()
            if fingerprint not in (None, model.fingerprint):
                raise ConfigError(
                    f"{model.name} at {address} gives rows of the fingerprint {model.fingerprint}, not {fingerprint}: "
                    "serve it as it was, or leave fingerprint out and embed the documents again into a new index"
                )
        except BaseException:
            release(address)
            raise
        return model

    @property
    def fingerprint(self) -> str:
        """Of the rows that it gave at first; another one's are refused."""
        return str(self.described["fingerprint"])

    @property
    def dimension(self) -> int:
        """Width of the rows, before truncation."""
        return int(self.described["full_dimension"] or self.described["dimension"] or 0)

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a text that count."""
        limit: int | None = self.described["max_seq_length"]
        return limit

    @property
    def prompts(self) -> Prompts:
        """What may be put before a text."""
        said = self.described["prompts"]
        return Prompts(
            self.described["info"]["model_name"], said["named"], said["default_name"], said["query"], said["document"]
        )

    @property
    def limits(self) -> Limits:
        """What the server takes."""
        said = self.described["limits"]
        return Limits(**{name: said[name] for name in Limits.__dataclass_fields__})

    def head(self, **more: Any) -> dict[str, Any]:
        """What each request says."""
        return {"model": self.name, "kind": self.kind.name, "settings": self.settings, **more}

    def describe(self) -> dict[str, Any]:
        """What the server says of it now; ConfigError where it is not what it was."""
        said: dict[str, Any] = self._json(self.ask("/api/v1/describe", json.dumps(self.head()).encode()))
        self.check(said.get("fingerprint"))
        return said

    def ask(self, path: str, body: bytes, *, wait: bool = False) -> Answer:
        """An answer, on this thread. Raises as `Connection.submit`'s future."""
        return connect(self.address).ask(path, body, wait=wait, command=self._command)

    def rows(self, body: Body, *, wait: bool, take: Callable[[Answer], Rows]) -> Rows:
        """An answer's arrays, on this thread."""
        return take(self.ask(_ROWS, body.content, wait=wait))

    def submit(self, body: Body, *, wait: bool, take: Callable[[Answer], Rows]) -> "Future[Rows]":
        """The arrays of an answer that is waited for elsewhere; cancelling it gives up the request."""
        return connect(self.address).submit(_ROWS, body.content, wait=wait, command=self._command, take=take)

    def take(self, answer: Answer) -> tuple[Rows, dict[int, AkiDBMLXError]]:
        """An answer's arrays, and why texts have no row, by place; ConfigError where another model made them."""
        self.check(answer.headers.get(wire.FINGERPRINT))
        try:
            arrays = wire.unpack(answer.headers[wire.ARRAYS], answer.body)
        except (InputError, KeyError, ValueError) as error:
            raise BackendError(f"the answer of {self.address} cannot be read: {error}") from None
        errors = json.loads(arrays.pop("errors").tobytes()) if "errors" in arrays else {}
        return arrays, {int(place): named_error(*told) for place, told in errors.items()}

    def tokens(self, body: Body) -> list[int]:
        """How many tokens are read of each text."""
        said = self._json(self.ask("/api/v1/tokens", body.content))
        self.check(said.get("fingerprint"))
        counted: list[int] = said["tokens"]
        return counted

    def check(self, fingerprint: object) -> None:
        """ConfigError where an answer is another model's than the first one was."""
        if self.described and fingerprint != self.fingerprint:
            raise ConfigError(
                f"{self.name} at {self.address} gives other rows than at first (fingerprint {self.fingerprint}, now "
                f"{fingerprint}): the server was started anew with another model or other settings. Rows of both fit "
                f"no index together; load it again, and embed the documents again"
            )

    def warn_once(self, message: str, kind: str | None = None) -> None:
        """Log a warning, but one of a kind only once for this model."""
        kind = kind or message
        if kind not in self.warned:
            self.warned.add(kind)
            _log.warning(message)

    def release(self, keep_alive: float | None = None, *, close: bool = True) -> None:
        """One user of the server less, as of a loaded model."""
        release(self.address)

    @property
    def _command(self) -> str:
        return self.address.command(self.kind.option, self.name)

    def _json(self, answer: Answer) -> dict[str, Any]:
        try:
            said: Any = json.loads(answer.body)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise ConfigError(f"what answers at {self.address} is no akidb-mlx server")
        return said


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """What a configuration says of the rows, wherever it was said; the rest is as the server has it.

    Raises:
        ConfigError: an argument that says how to compute, which is the server's business.
    """
    run_fields = fields_that_change(type(config), "run") - {"on_overlong"}
    if given := sorted(name for name in run_fields if config.source_of(name) == "argument"):
        raise ConfigError(f"{', '.join(given)}: how to compute is the server's business; leave it out with base_url")
    names = fields_that_change(type(config), "vectors") - {"model"}
    return config.model_dump(mode="json", include={name for name in names if config.source_of(name) != "default"})
