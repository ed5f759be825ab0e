"""`akidb-mlx embed INPUT… --to OUT`."""

import argparse
import sys

from akidb_mlx.cli.options import add_config_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="JSONL, CSV, TSV, Parquet or text files, or folders")
    parser.add_argument("--to", required=True, metavar="OUT", help="the file to write: .parquet, .jsonl or .npy")
    parser.add_argument("--text-column", default="text", metavar="C", help="what is embedded (default: text)")
    parser.add_argument("--id-column", metavar="C", help="default: `id` where every table has it, else FILE:NUMBER")
    parser.add_argument("--embedding-column", metavar="C", help="rows with a vector here keep it; it is checked")
    parser.add_argument(
        "--keep", action="append", metavar="C", help="put this column into OUT (repeat it; '' for none; default: all)"
    )
    parser.add_argument(
        "--output-dtype", default="float32", metavar="TYPE", help="float32 (default), float16, int8 or binary"
    )
    parser.add_argument("--calibration", metavar="FILE", help="an earlier int8 output whose scale this one takes")
    parser.add_argument("--overwrite", action="store_true", help="replace an OUT that was made otherwise")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="embed here, or on a Ray cluster")
    parser.add_argument("--actors", type=int, metavar="N", help="Ray: how many load the model (default: one a device)")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="on standard error")
    add_config_options(parser, model_option=True)


def run(args: argparse.Namespace) -> int:
    """Embed, and say on standard output what is in OUT."""
    from akidb_mlx import Embedder
    from akidb_mlx.corpus import Encoder, read_corpus

    config = read_config(args, EmbedderConfig)
    corpus = read_corpus(
        args.inputs,
        args.to,
        text_column=args.text_column,
        id_column=args.id_column,
        embedding_column=args.embedding_column,
        keep=args.keep,
        output_dtype=args.output_dtype,
        calibration=args.calibration,
        overwrite=args.overwrite,
    )
    encoder: Encoder
    if args.engine == "ray":
        from akidb_mlx.ray import RayEncoder

        encoder = RayEncoder(config, actors=args.actors)
    else:
        encoder = Embedder.load(config)
    with encoder:
        summary = corpus.embed(encoder, show_progress=args.progress)
    sys.stdout.write(f"{summary}\n")
    return 0
