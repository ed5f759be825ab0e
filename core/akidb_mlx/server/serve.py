"""A process that serves until it is told to stop, and then finishes what it accepted."""

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from akidb_mlx.config.sources import expanded
from akidb_mlx.server.models import Models
from akidb_mlx.server.running import serve_at
from akidb_mlx.server.settings import ServerSettings
from akidb_mlx.server.workers import plan_workers, supervise

__all__ = ["listen", "listen_uds", "serve"]

_log = logging.getLogger(__name__)


def serve(models: Models, settings: ServerSettings, api_key: str | None) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for requests.

    Raises:
        OSError: the address cannot be had. What `Embedder.load` raises, for a model loaded at the start.
    """
    with contextlib.ExitStack() as listeners:
        sockets: dict[str, socket.socket] = {}
        if settings.listens_on_tcp:
            if not settings.is_loopback and api_key is None:
                said = "anybody who reaches %s:%d may use this server: set an API key"
                _log.warning(said, settings.host, settings.port)
            listener = listeners.enter_context(listen(settings.host, settings.port))
            host, port = listener.getsockname()[:2]
            sockets[f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"] = listener
        if settings.uds is not None:
            path = expanded(settings.uds, "uds").absolute()
            sockets[f"unix://{path}"] = listeners.enter_context(listen_uds(path))
        workers = plan_workers(settings.workers, [config.device for config in models.configs.values()])
        if len(workers) > 1:
            supervise(workers, sockets, models.configs, settings, api_key, _greet)
        else:
            asyncio.run(serve_at(sockets, models, settings, api_key, greet=_greet))


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 is a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            taken = f"port {port} of {host} is taken by another program"
            raise OSError(f"{taken}; serve at another with --port N, or --port 0 for any free one") from None
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None
    # asyncio sets it only where a socket names its protocol; each answer would wait 40 ms for the head's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.contextmanager
def listen_uds(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that its owner alone may connect to; it goes at the end.

    One that a server left behind is taken away; OSError where one is served, or the place is another file's.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as other:
                if other.connect_ex(str(path)) == 0:
                    raise OSError(errno.EADDRINUSE, "another server listens there", str(path))
            path.unlink()
        listener.bind(str(path))
        own = path.stat().st_ino
        try:
            path.chmod(0o600)  # before anybody can connect
            listener.listen(1024)
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == own:
                    path.unlink()


def _greet(urls: Sequence[str], models: Iterable[str]) -> None:
    """A line for people, on standard output: the log is for machines."""
    web = [f"open {url}/" for url in urls if url.startswith("http")]
    where = ", ".join(web or urls)
    with contextlib.suppress(OSError, ValueError):  # nobody may be there to read it
        sys.stdout.write(f"akidb-mlx serves {', '.join(models)}: {where} (Ctrl-C ends it)\n")
        sys.stdout.flush()
