"""Services of launchd, on macOS: an agent of this user, which starts at login and again when it fails."""

import os
import plistlib
import re
from pathlib import Path

from akidb_mlx.cli.service_file import Service, run_command
from akidb_mlx.errors import ConfigError

__all__ = ["Launchd"]

_DOMAIN = "io.github.akidb-mlx"


class Launchd:
    """Files in ~/Library/LaunchAgents, in Apple's property lists (launchd.plist(5))."""

    def file(self, name: str) -> Path:
        """Where a service's file lies."""
        return Path.home() / "Library" / "LaunchAgents" / f"{_label(name)}.plist"

    def content(self, service: Service) -> str:
        """The property list."""
        log = str(_log(service.name))
        return plistlib.dumps(
            {
                "Label": _label(service.name),
                "ProgramArguments": list(service.command),
                "EnvironmentVariables": dict(service.environment),
                "WorkingDirectory": str(Path.home()),
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},
                "ThrottleInterval": 10,
                "ExitTimeOut": service.stop_s,
                # By itself launchd gives agents little of the processor and the disk.
                "ProcessType": "Interactive",
                "StandardOutPath": log,
                "StandardErrorPath": log,
            },
            sort_keys=False,
        ).decode()

    def logs(self, name: str) -> str:
        """The command that shows its log."""
        return f"tail -f {_log(name)}"

    def start(self, name: str) -> None:
        """Have it run now and from each login on."""
        self.stop(name)
        _log(name).parent.mkdir(parents=True, exist_ok=True)
        run_command(["launchctl", "bootstrap", _user(), str(self.file(name))])

    def stop(self, name: str) -> None:
        """Have it run no more; nothing where launchd does not know it."""
        if run_command(["launchctl", "print", f"{_user()}/{_label(name)}"], check=False).returncode == 0:
            run_command(["launchctl", "bootout", f"{_user()}/{_label(name)}"])

    def is_running(self, name: str) -> bool:
        """Whether it runs now."""
        said = run_command(["launchctl", "print", f"{_user()}/{_label(name)}"], check=False)
        return said.returncode == 0 and re.search(r"^\s*state = running$", said.stdout, re.MULTILINE) is not None

    def command(self, name: str) -> list[str]:
        """What its file starts."""
        file = self.file(name)
        try:
            return [str(part) for part in plistlib.loads(file.read_bytes())["ProgramArguments"]]
        except (ValueError, KeyError, TypeError, plistlib.InvalidFileException) as error:
            raise ConfigError(f"{file} is no property list of ours ({error}); install the service again") from None


def _label(name: str) -> str:
    return _DOMAIN if name == "akidb-mlx" else f"{_DOMAIN}.{name}"


def _log(name: str) -> Path:
    return Path.home() / "Library" / "Logs" / f"{name}.log"


def _user() -> str:
    return f"gui/{os.getuid()}"
