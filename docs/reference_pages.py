"""Write docs/configuration.md and docs/command-line.md, from the configurations' fields and the commands' options.

python docs/reference_pages.py
"""

import argparse
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from akidb_mlx import EmbedderConfig, MultiVectorConfig, RerankerConfig, SparseConfig
from akidb_mlx.cli import COMMANDS
from akidb_mlx.cli.options import described
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.options import MODEL_ALIASES, ModelOptions
from akidb_mlx.server.settings import ServerSettings

HERE = Path(__file__).parent
CONFIGURATION = """# Configuration

Each setting is said in one of four places; the first that says it wins:

1. an argument: `Embedder.load(model, truncate_dim=256)`, `AkiDBMLXEmbeddings(truncate_dim=256)`, `--truncate-dim 256`;
2. an environment variable: `AKIDB_MLX_TRUNCATE_DIM=256`;
3. one YAML file, the first found of `$AKIDB_CONFIG`, `./embedding_config.yaml`,
   `~/.config/akidb/embedding_config.yaml`: `truncate_dim: 256`;
4. the default below. "–" means that the checkpoint or the device decides.

`akidb-mlx info MODEL` shows what holds and who said it. An unknown name is an error that suggests the right one.
Settings under "changes vectors" are part of a model's fingerprint: an index made under another value is stale.

The YAML file holds an embedder's fields at its top level or under `embedding:`, the others' under `reranker:`,
`sparse:` and `multi_vector:`.

Aliases for `model`: {aliases}.

"""
VARIABLES = """
## Variables without a field

Read once in a process, for all of its models.

| variable | |
|---|---|
| `AKIDB_CONFIG` | The YAML file. |
| `AKIDB_API_KEY` | The server's key, for `akidb-mlx serve` and for who asks one. |
| `AKIDB_MLX_BLAS` | For MLX's CPU build on Linux: `off` leaves MLX the BLAS that it finds, a path is another. |
| `AKIDB_TUNING` | [Ways to compute](performance.md#ways-to-compute-that-are-off-by-default) that it turns on. |
| `OPENBLAS_NUM_THREADS`, else `OMP_NUM_THREADS` | The cores to use, on a CPU and for what is done beside a GPU. |
| `HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` | As everywhere else with the Hub. |
| `XDG_CACHE_HOME` | Where the folder `akidb-mlx` for that BLAS and for CUDA's kernels is, in place of `~/.cache`. |
| `MLX_PTX_CACHE_DIR` | Another folder for CUDA's kernels. |
"""
COMMAND_LINE = """# The command line

`akidb-mlx COMMAND --help` says the same. Options of a [configuration](configuration.md) can be given to every command
that loads a model (`--truncate-dim 256`, `--normalize`, `--no-normalize`) and are not repeated here.

Exit codes: 0; 1 for a failure at run time; 2 for a mistake in what was asked, with one line that says what to do; 130
after Ctrl-C.

"""
KINDS: tuple[tuple[str, type[ModelConfig]], ...] = (
    ("Embedders", EmbedderConfig),
    ("Rerankers", RerankerConfig),
    ("Sparse encoders", SparseConfig),
    ("Late-interaction models", MultiVectorConfig),
)


def configuration_page() -> str:
    """docs/configuration.md."""
    aliases = ", ".join(f"`{alias}` ({name})" for alias, name in MODEL_ALIASES.items())
    parts = [CONFIGURATION.format(aliases=aliases)]
    for title, kind in KINDS:
        prefix = kind.source.prefix
        own = [name for name in kind.model_fields if name not in ModelOptions.model_fields]
        parts.append(f"## {title}\n\n`{kind.__name__}`; variables begin with `{prefix}`, the file's section is ")
        parts.append(f"`{kind.source.section}:`.\n\n{_fields(kind, own, prefix)}\n")
    parts.append("## All kinds\n\nVariables begin with the kind's prefix, as above.\n\n")
    parts.append(_fields(EmbedderConfig, ModelOptions.model_fields, EmbedderConfig.source.prefix))
    parts.append("\n## The server\n\nOptions of `akidb-mlx serve`, or a `server:` section of its file.\n\n")
    parts.append("| option | default | |\n|---|---|---|\n")
    for name, field in ServerSettings.model_fields.items():
        parts.append(f"| `{name}` | {_default(field.default)} | {_cell(field.description)} |\n")
    parts.append(VARIABLES)
    return "".join(parts)


def _fields(config: type[ModelConfig], names: Iterable[str], prefix: str) -> str:
    lines = ["| field, YAML key | variable | default | changes | |", "|---|---|---|---|---|"]
    for name in names:
        field = config.model_fields[name]
        extra: Any = field.json_schema_extra or {}
        lines.append(
            f"| `{name}` | `{prefix}{name.upper()}` | {_default(field.default)} | {extra.get('changes', '')} | "
            f"{_cell(field.description)} |"
        )
    return "\n".join(lines) + "\n"


def command_line_page() -> str:
    """docs/command-line.md."""
    parts = [COMMAND_LINE, "| command | |\n|---|---|\n"]
    parts += [f"| [`{name}`](#{name}) | {_cell(text)} |\n" for name, text in COMMANDS.items()]
    for name, text in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"akidb-mlx {name}", add_help=False)
        importlib.import_module(f"akidb_mlx.cli.{name}").add_arguments(parser)
        parts.append(f"\n## {name}\n\n{text[0].upper()}{text[1:]}.\n\n| | default | |\n|---|---|---|\n")
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and not _is_configured(action):
                parts.append(_option(action))
    return "".join(parts)


def _is_configured(action: argparse.Action) -> bool:
    """Whether an option is a configuration's field, not the command's own of the same name."""
    kinds = [kind for _, kind in KINDS if action.dest != "model" and action.dest in kind.model_fields]
    return any(described(kind, action.dest) == action.help for kind in kinds)


def _option(action: argparse.Action) -> str:
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{_metavar(action)}`"
    takes_value = action.option_strings and action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction)
    if takes_value:
        flags += f" `{_metavar(action)}`"
    default = "" if action.default in (None, False, argparse.SUPPRESS) else f"`{action.default}`"
    text = (action.help or "") % {"default": action.default}
    return f"| {flags} | {default} | {_cell(text)} |\n"


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    return action.metavar or ("\\|".join(map(str, action.choices)) if action.choices else action.dest.upper())


def _default(value: Any) -> str:
    return "–" if value is None or value is ... or "Undefined" in repr(value) else f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


PAGES = {"configuration.md": configuration_page, "command-line.md": command_line_page}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")
        print(HERE / name)
