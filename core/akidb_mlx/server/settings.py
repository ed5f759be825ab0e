"""What the server allows and whom it serves; each model's own settings are a configuration of its kind."""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from akidb_mlx.any_model import CONFIGS
from akidb_mlx.config.sources import expanded, read_mapping, refuse_unknown
from akidb_mlx.errors import ConfigError
from akidb_mlx.server.served import ServedConfig

__all__ = ["API_KEY_VARIABLE", "ServerSettings", "make_settings", "read_api_key", "read_server_file"]

API_KEY_VARIABLE = "AKIDB_API_KEY"

# Key of a server's file → the kind of its models.
_KINDS: dict[str, type[ServedConfig]] = {
    "models": CONFIGS["embedder"],
    "rerankers": CONFIGS["reranker"],
    "sparse_models": CONFIGS["sparse"],
    "multi_vector_models": CONFIGS["multi_vector"],
    "hybrid_models": CONFIGS["hybrid"],
}
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(gt=0)]


class ServerSettings(BaseModel):
    """How to serve; each field is an option of `akidb-mlx serve` and a key under `server:` in its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 is every network.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    uds: Path | None = Field(
        default=None,
        description="Unix socket to listen on, for its owner alone; at host and port then only if one is given.",
    )
    api_key_file: Path | None = Field(
        default=None,
        description=f"File with the key that clients must send as bearer token. Or set {API_KEY_VARIABLE}.",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description="Web origins whose pages may call this server, such as https://example.org. None by default.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Host names that requests may name besides the loopback's own, while listening there.",
    )
    max_request_bytes: _Count = Field(default=8 * 2**20, description="Largest body of a request.")
    max_texts: _Count = Field(default=2048, description="Most texts in one request.")
    max_request_tokens: _Count = Field(default=1_000_000, description="Most tokens in one request.")
    max_requests: _Count = Field(
        default=4096,
        description="Most requests at a time; texts that come beyond wait for their turn, the rest is refused (429).",
    )
    body_timeout_s: _Seconds = Field(default=30.0, description="Seconds a client may take to send a request's body.")
    request_timeout_s: _Seconds = Field(default=300.0, description="Seconds a request may take, waiting included.")
    shutdown_timeout_s: _Seconds = Field(default=60.0, description="Seconds a shutdown waits for requests to finish.")
    workers: Annotated[int, Field(gt=0)] | Literal["auto"] = Field(
        default=1,
        description="Processes that serve at this address, each with the models; auto is one for each GPU of CUDA.",
    )
    preload: bool | None = Field(
        default=None,
        description="Load the models at the start. By default where there is just one, else on first use.",
    )

    @property
    def listens_on_tcp(self) -> bool:
        """Whether host and port count."""
        return self.uds is None or not self.model_fields_set.isdisjoint({"host", "port"})

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def make_settings(said: Mapping[str, Any]) -> ServerSettings:
    """Settings from options and file; ConfigError for a value that cannot be."""
    try:
        return ServerSettings(**said)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        told = [f"{p['loc'][0]} = {p['input']!r}: {p['msg'].removeprefix('Input ')}" for p in problems]
        raise ConfigError("; ".join(told)) from None


def read_server_file(path: Path, **given: Any) -> tuple[dict[str, ServedConfig], dict[str, Any]] | None:
    """The models by name, and what `server:` says; None for a file without any, which is no server's.

    `given` are fields that win in every model that has them.

    Raises:
        ConfigError: naming the file, the key and what is allowed.
    """
    path = expanded(path, "configuration file")
    content = read_mapping(path)
    if not _KINDS.keys() & content.keys():
        return None
    refuse_unknown(f"key in {path}:", content, {*_KINDS, "server"})
    server = content.get("server") or {}
    if not isinstance(server, dict):
        raise ConfigError(f"{path}: `server` should be a mapping of settings, not {server!r}")
    refuse_unknown(f"key in {path}, section server:", server, ServerSettings.model_fields)
    configs: dict[str, ServedConfig] = {}
    for key in _KINDS:
        for name, config in _read_models(path, key, content, given).items():
            if name in configs:
                raise ConfigError(f"{path}: two models have the name {name!r}; give them different ones")
            configs[name] = config
    return configs, server


def read_api_key(settings: ServerSettings) -> str | None:
    """The key that clients must send, if one is set; never an option, for `ps` shows those to everybody."""
    if settings.api_key_file is None:
        key, source = os.environ.get(API_KEY_VARIABLE), API_KEY_VARIABLE
    else:
        try:
            path = expanded(settings.api_key_file, "api_key_file")
            key, source = path.read_text(encoding="utf-8-sig"), str(settings.api_key_file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read api_key_file {settings.api_key_file}: {error}") from None
    if key is not None and not (key := key.strip()):
        raise ConfigError(f"{source} holds no API key; put one there, or leave it out to serve without")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{source}: no client can send this key; it must be one line of printable ASCII characters")
    return key


def _read_models(path: Path, key: str, content: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, ServedConfig]:
    if key not in content:
        return {}
    models = content[key]
    if not isinstance(models, dict) or not models:
        raise ConfigError(f"{path}: `{key}` should map names to settings, such as `small: {{model: …}}`")
    return {name: _read_model(_KINDS[key], f"{path}: {key}.{name}", section, given) for name, section in models.items()}


def _read_model(kind: type[ServedConfig], where: str, section: Any, given: Mapping[str, Any]) -> ServedConfig:
    section = {"model": section} if isinstance(section, str) else section
    if not isinstance(section, dict) or "model" not in section:
        raise ConfigError(f"{where} should be a model's name, or a mapping of settings with the key `model`")
    own = {name: value for name, value in given.items() if name in kind.model_fields}
    return kind.from_section(section, where, **own)
