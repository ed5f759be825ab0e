"""Every field of EmbedderConfig as an option of a command."""

import argparse
import types
from collections.abc import Collection
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from akidb_mlx.config.embedder_config import EmbedderConfig

__all__ = ["add_config_options", "add_model_argument", "read_config"]

_UNSET = argparse.SUPPRESS


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """MODEL as a positional argument that may be left out, when the configuration decides."""
    parser.add_argument("model", nargs="?", default=_UNSET, metavar="MODEL", help=_help("model"))


def add_config_options(
    parser: argparse.ArgumentParser, *, model_option: bool = False, but: Collection[str] = ()
) -> None:
    """`--max-seq-length N`, `--normalize`, `--no-normalize` and so on; values are checked by EmbedderConfig.

    All fields but those that the command declares itself.
    """
    group = parser.add_argument_group("configuration", "each also in the environment or a YAML file")
    group.add_argument("--config", default=_UNSET, metavar="FILE", help="read this YAML file")
    for name, field in EmbedderConfig.model_fields.items():
        if name in but or (name == "model" and not model_option):
            continue
        flag = "--" + name.replace("_", "-")
        if bool in _kinds(field.annotation):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=_UNSET, help=_help(name))
        else:
            choices = _choices(field.annotation)
            metavar = "|".join(choices) if choices else name.rsplit("_", 1)[-1].upper()
            group.add_argument(flag, default=_UNSET, metavar=metavar, help=_help(name))


def read_config(args: argparse.Namespace) -> EmbedderConfig:
    """The configuration with the options that were given on top."""
    given = {name: value for name, value in vars(args).items() if name in EmbedderConfig.model_fields}
    path = getattr(args, "config", None)
    return EmbedderConfig(**given) if path is None else EmbedderConfig.from_yaml(path, **given)


def _help(name: str) -> str:
    return (EmbedderConfig.model_fields[name].description or "").replace("%", "%%")


def _kinds(annotation: Any) -> set[Any]:
    """The plain types within Optional and Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}


def _choices(annotation: Any) -> list[str]:
    return [value for kind in _kinds(annotation) if get_origin(kind) is Literal for value in get_args(kind)]
