"""`akidb-mlx rerank INPUT… --to OUT`."""

import argparse
import sys

from akidb_mlx.cli.options import add_config_options, add_model_option, read_config
from akidb_mlx.config.reranker_config import RerankerConfig

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "akidb-mlx rerank pairs.jsonl --to scores.parquet --query-column question --text-column passage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="JSONL, CSV, TSV or Parquet files, or folders")
    add_model_option(parser, RerankerConfig)
    parser.add_argument("--to", required=True, metavar="OUT", help="the file to write: .parquet, .jsonl or .npy")
    parser.add_argument("--query-column", default="query", metavar="Q", help="the question (default: query)")
    parser.add_argument("--text-column", default="text", metavar="T", help="what may answer it (default: text)")
    parser.add_argument("--id-column", metavar="C", help="default: `id` where every table has it, else FILE:NUMBER")
    parser.add_argument(
        "--keep", action="append", metavar="C", help="put this column into OUT (repeat it; '' for none; default: all)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an OUT that was made otherwise")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="on standard error")
    add_config_options(parser, RerankerConfig)


def run(args: argparse.Namespace) -> int:
    """Score, and say on standard output what is in OUT."""
    from akidb_mlx import Reranker
    from akidb_mlx.corpus import PairScorer, read_corpus

    config = read_config(args, RerankerConfig)
    corpus = read_corpus(
        args.inputs,
        args.to,
        text_column=args.text_column,
        query_column=args.query_column,
        id_column=args.id_column,
        keep=args.keep,
        overwrite=args.overwrite,
    )
    with Reranker.load(config) as reranker:
        summary = corpus.embed(PairScorer(reranker), show_progress=args.progress)
    sys.stdout.write(f"{summary}\n")
    return 1 if summary.rejected and not summary.rows else 0
