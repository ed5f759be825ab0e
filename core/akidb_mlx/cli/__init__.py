"""The command line `akidb-mlx`: one module per command, in COMMANDS.

Exit code 2 for a user's mistake, 1 for a failure at run time, with one line on standard error, 130 for Ctrl-C.
"""

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import akidb_mlx
from akidb_mlx import errors
from akidb_mlx.config.sources import suggestion

__all__ = ["COMMANDS", "main"]

# Command → what it does; its module here has `add_arguments(parser)`, `run(args) -> int` and an EXAMPLE.
COMMANDS = {
    "demo": "index real texts through LangChain and LlamaIndex and ask questions of them",
    "info": "show a model's recipe and which file says what; loads no weights",
    "doctor": "probe whether a model behaves as it must, and whether this machine's device computes right",
    "bench": "measure a model on this machine",
    "convert": "pack a model's weights to 8 or 4 bit, with all its other files, and measure what that costs",
    "download": "bring a model's files here",
    "embed": "turn files of texts into a file of vectors; run it again after an interruption and it goes on",
    "rerank": "score pairs in tables: how well each text answers its query; it too goes on after an interruption",
    "serve": "answer HTTP requests for vectors and rankings, in OpenAI's, AkiDB's, Cohere's words; a page to try them",
    "service": "have serve run in the background from login on (launchd, systemd); remove it again; ask how it is",
    "bridge": "answer AkiDB's line protocol on standard input and output",
}
_USERS_MISTAKES = (
    errors.ConfigError,
    errors.InputError,
    errors.ModelNotFoundError,
    errors.CheckpointError,
    errors.UnsupportedModelError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    _reopen_closed_streams()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no "→" still gets the line
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(arguments)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except errors.AkiDBMLXError as error:
        return _fail(str(error), 2 if isinstance(error, _USERS_MISTAKES) else 1)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone; the interpreter's own flush would complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:
        return _fail(str(error) or repr(error), 1)


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as all our errors."""

    def error(self, message: str) -> NoReturn:
        """Leave with code 2."""
        sys.exit(_fail(f"{message}{' See' if message.endswith('?') else '; see'} {self.prog} --help", 2))

    def short_usage(self) -> str:
        """Words and required options alone: the others follow below."""
        needed = [
            f"{one.option_strings[0]} {one.metavar}" for one in self._actions if one.required and one.option_strings
        ]
        words = [_spelled(one) for one in self._actions if not one.option_strings]
        return " ".join([self.prog, *words, *needed, "[options]"])

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Leave with code 2, saying what was meant by the first of these words."""
        options = [flag for action in self._actions for flag in action.option_strings]
        if words[0].startswith("-"):
            flag = words[0].partition("=")[0]
            self.error(f"unknown option {flag}{suggestion(flag, options)}")
        meant = f"; did you mean --model {words[0]}?" if "--model" in options else ""
        self.error(f"unexpected {words[0]!r}{meant}")


def _spelled(word: argparse.Action) -> str:
    """A positional argument as usage shows it."""
    name = word.metavar or "|".join(word.choices or [word.dest])
    return {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} …"}.get(str(word.nargs), str(name))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser, commands = _parser(arguments)
    args, rest = parser.parse_known_args(arguments)
    if rest:
        commands.get(args.command, parser).refuse(rest)
    del args.command  # what is left are the command's own
    return args


def _parser(arguments: Sequence[str]) -> "tuple[_Parser, dict[str, _Parser]]":
    """The parser, and each command's own."""
    parser = _Parser("akidb-mlx", description=akidb_mlx.__doc__)
    parser.add_argument("--version", action="version", version=f"akidb-mlx {akidb_mlx.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    parsers: dict[str, _Parser] = {}
    for name, help_ in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_,
            description=f"akidb-mlx {name}: {help_}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parsers[name] = command
        if name in arguments:  # the others' modules, and what they import, are not needed
            module = importlib.import_module(f"akidb_mlx.cli.{name}")
            module.add_arguments(command)
            command.usage = command.short_usage()
            command.epilog = f"example:\n  {module.EXAMPLE}"
            command.set_defaults(run=module.run)
    return parser, parsers


def _reopen_closed_streams() -> None:
    """Where a stream was closed by who started us (`>&-`) Python has none, and what is written there goes nowhere."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("r" if name == "stdin" else "w")  # noqa: SIM115  # for the whole process
            setattr(sys, name, stream)


def _fail(message: str, code: int) -> int:
    print(f"akidb-mlx: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201  # the command line's one line
    return code
