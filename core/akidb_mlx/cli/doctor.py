"""`akidb-mlx doctor [MODEL] [--device]`."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from akidb_mlx.any_model import AnyConfig, AnyModel, load_any
from akidb_mlx.cli.convert import add_texts_argument
from akidb_mlx.cli.kind import add_kind_options, read_config_of_kind
from akidb_mlx.cli.options import add_model_argument
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.doctor import (
    Finding,
    Machine,
    examine,
    examine_device,
    examine_hybrid,
    examine_multi_vector,
    examine_reranker,
    examine_sparse,
    read_machine,
    report,
)
from akidb_mlx.doctor.comparison import compare, table
from akidb_mlx.doctor.texts import read_docstrings, read_texts
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import HybridEmbedder, expect_long_texts
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.reranker import Reranker
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "akidb-mlx doctor sentence-transformers/all-MiniLM-L6-v2"

_MARKS = {True: "pass", False: "FAIL", None: "note"}
_DEVICES = ("gpu", "cpu")


class _ExamineDevice(argparse.Action):
    """`--device`, with or without the configuration's value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values is not None and values not in _DEVICES:
            parser.error(f"--device takes gpu, cpu or nothing, not {values!r}; a MODEL stands before it")
        namespace.examine_device = True
        if values is not None:
            namespace.device = values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_argument(parser)
    parser.add_argument(
        "--device",
        nargs="?",
        action=_ExamineDevice,
        default=argparse.SUPPRESS,
        metavar="|".join(_DEVICES),
        help="examine the device itself, with or without a MODEL: the one that a load would take, or this one",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.npz",
        help="compare with sentence-transformers' vectors (python -m akidb_mlx.make_reference makes the file)",
    )
    parser.add_argument("--against", metavar="MODEL", help="measure how much of what this model finds MODEL finds")
    add_texts_argument(parser)
    add_kind_options(parser, but=frozenset({"device"}))


def run(args: argparse.Namespace) -> int:
    """Print what each probe found; 1 where one failed."""
    config = read_config_of_kind(args)
    machine = read_machine(config.device) if "examine_device" in args else None
    examines_model = _names_model(args, config)
    if args.reference is not None and not examines_model:
        raise ConfigError("--reference compares a MODEL's vectors; say which model")
    if args.reference is not None and not args.reference.is_file():
        raise ConfigError(f"--reference {args.reference}: no such file; python -m akidb_mlx.make_reference makes it")
    if (args.against or args.texts) is not None and not (examines_model and args.against):
        raise ConfigError("--against compares a MODEL with another, on --texts or the docstrings; say which two")
    if machine is None and not examines_model:
        raise ConfigError("doctor examines a MODEL, this machine's device (--device), or both; say which")
    findings = [] if machine is None else list(_shown(examine_device(machine), args))
    if not examines_model:
        return _end(findings, args, None, machine)
    if args.reference is not None and type(config) is not EmbedderConfig:
        what = "a reranker, which has none" if isinstance(config, RerankerConfig) else "no embedder"
        raise ConfigError(f"--reference compares vectors; {config.model} is {what}")
    with load_any(config) as model:
        expect_long_texts(model)
        findings += _shown(_examined(model, config, args.reference), args)
        if args.against is not None:
            findings += _shown(_compared(model, config, args), args)
        return _end(findings, args, model, machine)


def _examined(model: AnyModel, config: AnyConfig, reference: Path | None) -> Iterator[Finding]:
    """The probes of its kind."""
    if isinstance(config, RerankerConfig):
        return examine_reranker(cast("Reranker", model))
    if isinstance(config, SparseConfig):
        return examine_sparse(cast("SparseEmbedder", model))
    if isinstance(config, MultiVectorConfig):
        return examine_multi_vector(cast("MultiVectorEmbedder", model))
    if isinstance(config, HybridConfig):
        return examine_hybrid(cast("HybridEmbedder", model))
    return examine(cast("Embedder", model), reference)


def _compared(model: AnyModel, config: AnyConfig, args: argparse.Namespace) -> Iterator[Finding]:
    """What the model keeps of another's, a note for each figure."""
    if isinstance(model, HybridEmbedder):
        raise ConfigError("--against compares models of one form; leave --kind hybrid out")
    texts = read_docstrings() if args.texts is None else read_texts(args.texts)
    with load_any(config.with_changes(model=args.against, revision=None)) as other:
        assert not isinstance(other, HybridEmbedder)
        compared = compare(other, model, texts)
    for what, of_other, own in table(compared)[1:]:
        yield Finding(f"against: {what}", None, f"{own}; {args.against} {of_other}")
    about = f"{compared.queries} queries, {compared.documents} documents: {compared.texts}"
    yield Finding("against: texts", None, about)


def _names_model(args: argparse.Namespace, config: AnyConfig) -> bool:
    """Whether a model is meant: for `--device` only one that stands beside it, not one that the environment names."""
    return "model" in args or ("examine_device" not in args and config.source_of("model") != "default")


def _shown(findings: Iterable[Finding], args: argparse.Namespace) -> Iterator[Finding]:
    for finding in findings:
        if not args.json:
            sys.stdout.write(f"{_MARKS[finding.passed]}  {finding.probe:<28} {finding.detail}\n")
            sys.stdout.flush()
        yield finding


def _end(findings: list[Finding], args: argparse.Namespace, model: AnyModel | None, machine: Machine | None) -> int:
    if args.json:
        sys.stdout.write(json.dumps(report(findings, model, machine), indent=2, ensure_ascii=False) + "\n")
    return 1 if any(finding.passed is False for finding in findings) else 0
