"""Every field of a configuration as an option of a command."""

import argparse
import re
import types
from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig

__all__ = [
    "add_config_options",
    "add_model_argument",
    "add_model_option",
    "add_more_options",
    "described",
    "read_config",
]

_UNSET = argparse.SUPPRESS
Config = TypeVar("Config", bound=ModelConfig)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """MODEL as a positional argument that may be left out, when the configuration decides."""
    parser.add_argument("model", nargs="?", default=_UNSET, metavar="MODEL", help=described(EmbedderConfig, "model"))


def add_model_option(parser: argparse.ArgumentParser, config: type[ModelConfig] = EmbedderConfig) -> None:
    """`--model`, for commands whose words are something else; call it first, so that help begins with it."""
    parser.add_argument("--model", default=_UNSET, metavar="MODEL", help=described(config, "model"))


def add_config_options(
    parser: argparse.ArgumentParser,
    config: type[ModelConfig] = EmbedderConfig,
    *,
    but: Collection[str] = (),
    only: Collection[str] | None = None,
) -> None:
    """`--max-seq-length N`, `--normalize`, `--no-normalize` and so on; values are checked by the configuration.

    All fields but those that the command declares itself. With `only`, help leaves the others out, which are taken and
    change nothing there.
    """
    prefix = config.source.prefix
    group = parser.add_argument_group(
        "configuration",
        f"each also as a variable ({prefix}MODEL, {prefix}MAX_SEQ_LENGTH …) or in a YAML file: the first of\n"
        "--config, $AKIDB_CONFIG, ./embedding_config.yaml, ~/.config/akidb/embedding_config.yaml",
    )
    group.add_argument("--config", default=_UNSET, metavar="FILE", help="read this YAML file")
    _add_fields(group, config, {*but, "model"}, only)


def add_more_options(
    parser: argparse.ArgumentParser, config: type[ModelConfig], title: str, *, but: Collection[str] = ()
) -> None:
    """What `config` has beside EmbedderConfig, for commands that take models of several kinds."""
    _add_fields(parser.add_argument_group(title), config, {*EmbedderConfig.model_fields, *but})


def read_config(args: argparse.Namespace, config: type[Config]) -> Config:
    """The configuration with those options on top that were given and are its own."""
    given = {name: value for name, value in vars(args).items() if name in config.model_fields}
    path = getattr(args, "config", None)
    return config(**given) if path is None else config.from_yaml(path, **given)


def _add_fields(
    group: argparse._ArgumentGroup,
    config: type[ModelConfig],
    but: Collection[str],
    only: Collection[str] | None = None,
) -> None:
    for name, field in config.model_fields.items():
        if name in but:
            continue
        flag = "--" + name.replace("_", "-")
        told = described(config, name) if only is None or name in only else argparse.SUPPRESS
        if bool in _kinds(field.annotation):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=_UNSET, help=told)
        else:
            choices = _choices(field.annotation)
            metavar = "|".join(choices) if choices else name.rsplit("_", 1)[-1].upper()
            group.add_argument(flag, default=_UNSET, metavar=metavar, help=told)


def described(config: type[ModelConfig], name: str) -> str:
    """A field's description in the command line's words, where nobody can say None."""
    field = config.model_fields[name]
    told = re.sub(r"\bNone:? (?=\w)", "By default ", field.description or "")
    plain = field.default
    if plain is not None and not isinstance(plain, bool):
        told += f" (default: {f'{plain:,}' if isinstance(plain, int) else plain})"
    return told.replace("%", "%%")


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
