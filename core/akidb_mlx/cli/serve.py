"""`akidb-mlx serve`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akidb_mlx.cli.options import add_config_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.sources import expanded
from akidb_mlx.errors import ConfigError

if TYPE_CHECKING:
    from akidb_mlx.server.settings import ServerSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        default=[],
        metavar="[NAME=]MODEL",
        help="serve this model, under NAME if given; may be repeated. A file given with --config may list models too",
    )
    group = parser.add_argument_group("server")
    for name, field in _settings_class().model_fields.items():
        flag, help_ = "--" + name.replace("_", "-"), field.description
        if field.annotation == bool | None:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_)
        elif field.annotation == tuple[str, ...]:
            group.add_argument(flag, nargs="+", default=argparse.SUPPRESS, metavar="NAME", help=help_)
        else:
            metavar = name.rsplit("_", 1)[-1].upper()
            group.add_argument(flag, default=argparse.SUPPRESS, metavar=metavar, help=help_)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    settings_class = _settings_class()
    from akidb_mlx.server.logs import configure_logging
    from akidb_mlx.server.models import Models
    from akidb_mlx.server.serve import serve
    from akidb_mlx.server.settings import make_settings, read_api_key

    configs, said = _read_models(args)
    options = {name: value for name, value in vars(args).items() if name in settings_class.model_fields}
    settings = make_settings({**said, **options})
    api_key = read_api_key(settings)
    configure_logging()
    serve(Models(configs), settings, api_key)
    return 0


def _settings_class() -> "type[ServerSettings]":
    try:
        import orjson  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"serve needs {error.name}: pip install 'akidb-mlx[server]'") from None
    from akidb_mlx.server.settings import ServerSettings

    return ServerSettings


def _read_models(args: argparse.Namespace) -> tuple[dict[str, EmbedderConfig], dict[str, Any]]:
    """What to serve, from a server's file, from `--model`, or from the configuration that is found."""
    from akidb_mlx.server.settings import read_server_file

    given = {name: value for name, value in vars(args).items() if name in EmbedderConfig.model_fields}
    path = getattr(args, "config", None)
    listed = read_server_file(Path(path), **given) if path is not None else None
    if listed is not None:
        if args.models:
            raise ConfigError(f"{path} lists the models; leave --model out, or add them there")
        return listed
    if not args.models:
        config = read_config(args)
        return {config.model: config}, {}
    named = [_split(one) for one in args.models]
    configs = {name: read_config(argparse.Namespace(**{**vars(args), "model": model})) for name, model in named}
    if len(configs) < len(named):
        raise ConfigError("two models have the same name; give them names with --model NAME=MODEL")
    return configs, {}


def _split(text: str) -> tuple[str, str]:
    """NAME=MODEL, or a model that is its own name; a folder's name may hold "="."""
    name, equals, model = text.partition("=")
    return (name, model) if equals and name and not expanded(text, "--model").exists() else (text, text)
