"""`akidb-mlx serve`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akidb_mlx.cli.options import add_config_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.sources import expanded
from akidb_mlx.errors import ConfigError

if TYPE_CHECKING:
    from akidb_mlx.server.served import ServedConfig, ServedKind
    from akidb_mlx.server.settings import ServerSettings

__all__ = ["EXAMPLE", "add_arguments", "given_settings", "read_models", "run"]

EXAMPLE = "akidb-mlx serve sentence-transformers/all-MiniLM-L6-v2 --port 8000"

# Option → what it serves.
_MODELS: "dict[str, ServedKind]" = {
    "model": "embedder",
    "reranker": "reranker",
    "sparse": "sparse",
    "multi": "multi_vector",
    "hybrid": "hybrid",
}
_FORMS = {"embedder", "sparse", "multi_vector"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("served", nargs="*", metavar="[NAME=]MODEL", help="an embedder to serve, as --model says one")
    for option, kind in _MODELS.items():
        what = {"embedder": "model", "reranker": "reranker"}.get(kind, f"{kind.replace('_', '-')} model")
        parser.add_argument(
            f"--{option}",
            action="append",
            dest=f"{option}s",
            default=[],
            metavar="[NAME=]MODEL",
            help=f"serve this {what}, under NAME if given; may be repeated. A file given with --config may list it too",
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
    _settings_class()
    args.models = [*args.served, *args.models]
    from akidb_mlx.server.logs import configure_logging
    from akidb_mlx.server.models import Models
    from akidb_mlx.server.serve import serve
    from akidb_mlx.server.settings import make_settings, read_api_key

    configs, said = read_models(args)
    settings = make_settings({**said, **given_settings(args)})
    api_key = read_api_key(settings)
    configure_logging()
    serve(Models(configs), settings, api_key)
    return 0


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The server's settings that were given as options."""
    return {name: value for name, value in vars(args).items() if name in _settings_class().model_fields}


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


def read_models(args: argparse.Namespace) -> "tuple[dict[str, ServedConfig], dict[str, Any]]":
    """What to serve, from a server's file, from the options, or the embedder of the configuration that is found."""
    from akidb_mlx.server.settings import read_server_file

    given = {name: value for name, value in vars(args).items() if name in EmbedderConfig.model_fields}
    path = getattr(args, "config", None)
    listed = read_server_file(Path(path), **given) if path is not None else None
    said = [option for option in _MODELS if getattr(args, f"{option}s")]
    if listed is not None:
        if said:
            raise ConfigError(f"{path} lists the models; leave --{said[0]} out, or add them there")
        return listed
    if not said:
        config = read_config(args, EmbedderConfig)
        return {config.model: config}, {}
    return _named(args), {}


def _named(args: argparse.Namespace) -> "dict[str, ServedConfig]":
    """What the options name. One model under one name in several forms is one that gives all of them in one pass."""
    from akidb_mlx.any_model import CONFIGS

    kinds: dict[str, list[ServedKind]] = {}
    models: dict[str, str] = {}
    for option, kind in _MODELS.items():
        for name, model in (_split(one, f"--{option}") for one in getattr(args, f"{option}s")):
            forms = kinds.setdefault(name, [])
            joined = forms and models[name] == model and kind not in forms and {kind, *forms} <= _FORMS
            if forms and not joined:
                raise ConfigError(f"two models have the same name; give them names with --{option} NAME=MODEL")
            forms.append(kind)
            models[name] = model
    return {
        name: read_config(
            argparse.Namespace(**{**vars(args), "model": models[name]}),
            CONFIGS["hybrid" if len(forms) > 1 else forms[0]],
        )
        for name, forms in kinds.items()
    }


def _split(text: str, option: str) -> tuple[str, str]:
    """NAME=MODEL, or a model that is its own name; a folder's name may hold "="."""
    name, equals, model = text.partition("=")
    return (name, model) if equals and name and not expanded(text, option).exists() else (text, text)
