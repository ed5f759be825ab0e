"""Services of systemd, on Linux: a unit of this user, which starts at login and again when it fails."""

import os
import re
import shlex
from pathlib import Path

from akidb_mlx.cli.service_file import Service, run_command
from akidb_mlx.errors import ConfigError

__all__ = ["Systemd"]

_UNIT = """\
[Unit]
Description={description}
# Five failures within ten minutes are enough.
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
{environment}WorkingDirectory=%h
Restart=on-failure
RestartSec=5
TimeoutStopSec={stop_s}
UMask=0077

[Install]
WantedBy=default.target
"""


class Systemd:
    """Files in ~/.config/systemd/user (systemd.service(5), systemd.unit(5))."""

    def file(self, name: str) -> Path:
        """Where a service's file lies."""
        folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(folder) / "systemd" / "user" / f"{name}.service"

    def content(self, service: Service) -> str:
        """The unit."""
        return _UNIT.format(
            description=service.description.replace("%", "%%"),
            # The program itself is taken as it stands but for "%"; "$" would be a variable in what follows.
            command=" ".join(_quoted(part).replace("$", "$$") for part in service.command),
            environment="".join(
                f"Environment={_quoted(f'{name}={value}')}\n" for name, value in service.environment.items()
            ),
            stop_s=service.stop_s,
        )

    def logs(self, name: str) -> str:
        """The command that shows its log."""
        return f"journalctl --user -u {name} -f"

    def start(self, name: str) -> None:
        """Have it run now and from each login on."""
        run_command(["systemctl", "--user", "daemon-reload"])
        run_command(["systemctl", "--user", "enable", name])
        run_command(["systemctl", "--user", "restart", name])

    def stop(self, name: str) -> None:
        """Have it run no more."""
        run_command(["systemctl", "--user", "disable", "--now", name])

    def is_running(self, name: str) -> bool:
        """Whether it runs now."""
        return run_command(["systemctl", "--user", "is-active", "--quiet", name], check=False).returncode == 0

    def command(self, name: str) -> list[str]:
        """What its file starts."""
        said = re.search(r"^ExecStart=(.*)$", self.file(name).read_text(encoding="utf-8"), re.MULTILINE)
        if said is None:
            raise ConfigError(f"{self.file(name)} has no ExecStart; install the service again")
        return [part.replace("%%", "%").replace("$$", "$") for part in shlex.split(said[1])]


def _quoted(text: str) -> str:
    """As systemd reads it: in quotes where need be, "%" twice, since it stands for what systemd knows."""
    text = text.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=:,./-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
