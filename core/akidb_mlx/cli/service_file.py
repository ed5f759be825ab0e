"""What a service is, whichever program runs it: what it starts, with which environment, under which name."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from akidb_mlx.errors import BackendError, ConfigError

__all__ = ["Service", "ServiceProgram", "carried_environment", "own_command", "run_command"]

# What a model's files, the network and the settings depend on. No keys: the file would show them.
_CARRIED = ("HF_", "AKIDB_", "XDG_CACHE_HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "CUDA_VISIBLE")
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
# A key's file is no secret; a proxy's address may hold a password.
_NO_SECRET = ("_FILE", "_PATH")


@dataclass(frozen=True)
class Service:
    """A program that runs in the background for one user, from login on."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    stop_s: int
    """Seconds that it may take to end what it has accepted."""
    description: str = "akidb-mlx: embeddings over HTTP"


class ServiceProgram(Protocol):
    """What starts services: launchd, systemd."""

    def file(self, name: str) -> Path:
        """Where a service's file lies."""

    def content(self, service: Service) -> str:
        """The file."""

    def logs(self, name: str) -> str:
        """The command that shows its log."""

    def start(self, name: str) -> None:
        """Have it run now and from each login on; what ran before of this name is stopped."""

    def stop(self, name: str) -> None:
        """Have it run no more; nothing where it does not run."""

    def is_running(self, name: str) -> bool:
        """Whether it runs now."""

    def command(self, name: str) -> list[str]:
        """What its file starts."""


def own_command() -> tuple[str, ...]:
    """How this program is started: by the name on the PATH where that is this one, which an upgrade keeps.

    `uv tool`, pipx and Homebrew put a link there and replace what it leads to.
    """
    own = Path(sys.executable).parent / "akidb-mlx"
    found = shutil.which("akidb-mlx")
    if found and own.exists() and Path(found).resolve() == own.resolve():
        return (os.path.abspath(found),)  # noqa: PTH100  # not where the link leads
    return (str(own),) if own.exists() else (sys.executable, "-m", "akidb_mlx")


def carried_environment() -> tuple[dict[str, str], list[str]]:
    """What a service takes over of this environment, and the names that are left out since they hold secrets."""
    wanted = {name: value for name, value in os.environ.items() if name.upper().startswith(_CARRIED) and value}
    secret = [name for name, value in wanted.items() if _is_secret(name, value)]
    kept = {name: _from_anywhere(value) for name, value in sorted(wanted.items()) if name not in secret}
    return kept, sorted(secret)


def _from_anywhere(value: str) -> str:
    """A path that is one from this folder as one from any other."""
    return str(Path(value).absolute()) if os.sep in value and Path(value).exists() else value


def _is_secret(name: str, value: str) -> bool:
    named = any(word in name.upper() for word in _SECRET) and not name.upper().endswith(_NO_SECRET)
    return named or (name.upper().endswith("_PROXY") and "@" in value)


def run_command(command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; with `check` BackendError, with what it said, where that was no success."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ConfigError(f"there is no {command[0]} here; --print shows the file, for another way to run it") from None
    if check and done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or "no word"
        raise BackendError(f"{shlex.join(command)} ended with code {done.returncode}: {said}")
    return done
