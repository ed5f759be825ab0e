"""`akidb-mlx service install | uninstall | status`."""

import argparse
import http.client
import json
import math
import re
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from akidb_mlx.cli import serve
from akidb_mlx.cli.launchd import Launchd
from akidb_mlx.cli.service_file import Service, ServiceProgram, carried_environment, own_command
from akidb_mlx.cli.systemd import Systemd
from akidb_mlx.config.sources import expanded
from akidb_mlx.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "akidb-mlx service install sentence-transformers/all-MiniLM-L6-v2"

_PROGRAMS: dict[str, type[ServiceProgram]] = {"darwin": Launchd, "linux": Systemd}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_LISTS = ("models", "rerankers", "sparses", "multis", "hybrids")
# Beside a shutdown's own time.
_MORE_S = 10
_HEALTH_S = 5.0
_OWN = frozenset({"run", "action", "served", "name", "print_only"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: some of our own, and all of `serve`."""
    parser.add_argument("action", choices=["install", "uninstall", "status"], help="what to do")
    parser.add_argument("--name", default="akidb-mlx", metavar="NAME", help="the service's name, where there are more")
    parser.add_argument("--print", action="store_true", dest="print_only", help="show the file, and change nothing")
    serve.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Install, uninstall or ask."""
    if not _NAME.fullmatch(args.name):
        raise ConfigError(f"--name {args.name!r}: letters, digits, dots, hyphens and underscores make a name")
    program = _program()
    return {"install": _install, "uninstall": _uninstall, "status": _status}[args.action](args, program)


def _program() -> ServiceProgram:
    if sys.platform not in _PROGRAMS:
        raise ConfigError(f"services are launchd's (macOS) and systemd's (Linux); {sys.platform} has neither")
    return _PROGRAMS[sys.platform]()


def _install(args: argparse.Namespace, program: ServiceProgram) -> int:
    args.models = [*args.served, *args.models]
    if not hasattr(args, "config") and not any(getattr(args, name) for name in _LISTS):
        raise ConfigError("say what to serve: service install MODEL, --reranker MODEL …, or --config FILE")
    stop_s = _check(args)
    environment, secret = carried_environment()
    service = Service(args.name, (*own_command(), "serve", *_serve_options(args)), environment, stop_s)
    file, content = program.file(args.name), program.content(service)
    _say(f"# {file}\n{content}")
    for name in secret:
        hint = "; --api-key-file names a file with it" if name == "AKIDB_API_KEY" else ""
        _warn(f"{name} is not taken over: the file would show it{hint}")
    if args.print_only:
        return 0
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    program.start(args.name)
    _say(f"{args.name} runs, now and from each login on; its log: {program.logs(args.name)}")
    if isinstance(program, Systemd):
        _say("without a login: loginctl enable-linger")
    return 0


def _uninstall(args: argparse.Namespace, program: ServiceProgram) -> int:
    _refuse_more(args)
    file = _installed(args, program)
    if args.print_only:
        _say(f"would stop {args.name} and remove {file}")
        return 0
    program.stop(args.name)
    file.unlink()
    _say(f"{args.name} is stopped, {file} removed; models and settings are where they were")
    return 0


def _status(args: argparse.Namespace, program: ServiceProgram) -> int:
    """0 where it runs and answers, else 1."""
    _refuse_more(args)
    file = _installed(args, program)
    running = program.is_running(args.name)
    _say(f"file     {file}\nrunning  {'yes' if running else 'no'}\nlog      {program.logs(args.name)}")
    status, url = _health(program.command(args.name)) if running else (None, "")
    if running:
        _say(f"address  {url}\nhealth   {status or 'no answer'}")
    return 0 if status == "ok" else 1


def _installed(args: argparse.Namespace, program: ServiceProgram) -> Path:
    file = program.file(args.name)
    if not file.exists():
        raise ConfigError(f"no service {args.name} is installed ({file}); akidb-mlx service install MODEL does it")
    return file


def _refuse_more(args: argparse.Namespace) -> None:
    if args.served or _serve_options(args):
        raise ConfigError(f"service {args.action} takes --name alone; models and settings are said to install")


def _check(args: argparse.Namespace) -> int:
    """Refuse here what `serve` would refuse in the background; the seconds that ending may take."""
    from akidb_mlx.server.settings import make_settings, read_api_key

    _, said = serve.read_models(args)
    settings = make_settings({**said, **serve.given_settings(args)})
    if settings.api_key_file is not None:
        read_api_key(settings)
    return math.ceil(settings.shutdown_timeout_s) + _MORE_S


def _serve_options(args: argparse.Namespace) -> list[str]:
    """What was given, as options of `serve`; paths from where they were said."""
    options: list[str] = []
    for name in _LISTS:
        for one in getattr(args, name):
            options += [f"--{name[:-1]}", _absolute_model(one)]
    for name, value in vars(args).items():
        flag = "--" + name.replace("_", "-")
        if name in _OWN or name in _LISTS:
            continue
        if isinstance(value, bool):
            options.append(flag if value else "--no-" + flag[2:])
        elif isinstance(value, list):
            options += [flag, *value]
        else:
            options += [flag, _absolute(value, name)]
    return options


def _absolute(value: Any, name: str) -> str:
    return str(expanded(value, name).absolute()) if name in _PATHS else str(value)


_PATHS = frozenset({"config", "api_key_file", "cache_dir", "uds"})


def _absolute_model(said: str) -> str:
    """A folder's whole path; a name on the Hub, and what stands before "=", as it is."""
    name, equals, model = said.partition("=")
    if not equals or expanded(said, "model").exists():
        name, equals, model = "", "", said
    path = expanded(model, "model")
    return f"{name}{equals}{path.absolute() if path.is_dir() else model}"


def _health(command: list[str]) -> tuple[str | None, str]:
    """What a service's /health says, None for nothing; and where it was asked."""
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    args, _ = parser.parse_known_args(command[command.index("serve") + 1 :])
    from akidb_mlx.server.settings import make_settings

    _, said = serve.read_models(args)
    settings = make_settings({**said, **serve.given_settings(args)})
    path = getattr(settings, "uds", None)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=_HEALTH_S)
    if path is not None:
        connection.sock = socket.socket(socket.AF_UNIX)
    with closing(connection), suppress(OSError, ValueError, http.client.HTTPException):
        if path is not None:
            connection.sock.settimeout(_HEALTH_S)
            connection.sock.connect(str(path))
        connection.request("GET", "/health", headers={"Host": "localhost"})
        return str(json.loads(connection.getresponse().read())["status"]), _url(host, settings.port, path)
    return None, _url(host, settings.port, path)


def _url(host: str, port: int, path: Path | None) -> str:
    if path is not None:
        return str(path)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _warn(text: str) -> None:
    sys.stderr.write(f"akidb-mlx: {text}\n")
