"""A server that an adapter's model is on, in place of this process."""

from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.remote.address import Address
from akidb_mlx.remote.face import RemoteFace
from akidb_mlx.restoring import restore

__all__ = ["Elsewhere", "Server", "server_of"]

C = TypeVar("C", bound=ModelConfig)


@dataclass(frozen=True)
class Server:
    """Where the model is, and the fingerprint that its rows must have, if one is wanted."""

    address: Address
    fingerprint: str | None = None

    @property
    def base_url(self) -> str:
        """As it was given."""
        return self.address.base_url

    def given(self) -> dict[str, Any]:
        """What a remote class's `load` takes beside the configuration."""
        return {"base_url": self.address, "fingerprint": self.fingerprint}

    def __reduce__(self) -> tuple[Any, ...]:
        address = self.address
        return restore, (Server, address.base_url, address.api_key, address.timeout_s, self.fingerprint)

    @classmethod
    def _restored(cls, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None) -> Self:
        return cls(Address(base_url, api_key, timeout_s), fingerprint)


@dataclass(frozen=True)
class Elsewhere(Generic[C]):
    """A configuration whose model is on a server: what another process makes the adapter of."""

    config: C
    server: Server

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (Elsewhere, self.config, self.server)

    @classmethod
    def _restored(cls, config: C, server: Server) -> Self:
        return cls(config, server)


def server_of(face: object) -> Server | None:
    """The server of a ready model, if it has one."""
    return Server(face.server, face.wanted_fingerprint) if isinstance(face, RemoteFace) else None
