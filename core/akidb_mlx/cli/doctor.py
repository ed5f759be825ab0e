"""`akidb-mlx doctor MODEL`."""

import argparse
import json
import sys
from pathlib import Path

from akidb_mlx.cli.options import add_config_options, add_model_argument, read_config
from akidb_mlx.doctor import examine, report
from akidb_mlx.embedder import Embedder

__all__ = ["add_arguments", "run"]

_MARKS = {True: "pass", False: "FAIL", None: "n/a "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.npz",
        help="compare with vectors from elsewhere (benchmarks/make_reference.py makes the file)",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print what each probe found; 1 where one failed."""
    with Embedder.load(read_config(args)) as embedder:
        findings = []
        for finding in examine(embedder, args.reference):
            findings.append(finding)
            if not args.json:
                sys.stdout.write(f"{_MARKS[finding.passed]}  {finding.probe:<24} {finding.detail}\n")
                sys.stdout.flush()
        if args.json:
            sys.stdout.write(json.dumps(report(findings, embedder), indent=2, ensure_ascii=False) + "\n")
    return 1 if any(finding.passed is False for finding in findings) else 0
