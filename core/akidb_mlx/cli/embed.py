"""`akidb-mlx embed INPUT… --to OUT`."""

import argparse
import sys
from typing import Any

from akidb_mlx.cli.options import add_config_options, add_model_option, add_more_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "akidb-mlx embed articles.jsonl --to articles.parquet --model sentence-transformers/all-MiniLM-L6-v2"

_CONFIGS: dict[str, type[ModelConfig]] = {
    "dense": EmbedderConfig,
    "sparse": SparseConfig,
    "multi": MultiVectorConfig,
    "hybrid": EmbedderConfig,
}
# An option of the command's own, which has another meaning there.
_OWN = frozenset({"calibration", "output_dtype"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="JSONL, CSV, TSV, Parquet or text files, or folders")
    add_model_option(parser)
    parser.add_argument("--to", required=True, metavar="OUT", help="the file to write: .parquet, .jsonl or .npy")
    parser.add_argument(
        "--kind",
        choices=("dense", "sparse", "multi", "hybrid"),
        default="dense",
        help="what MODEL gives (default: dense)",
    )
    parser.add_argument("--text-column", default="text", metavar="C", help="what is embedded (default: text)")
    parser.add_argument("--id-column", metavar="C", help="default: `id` where every table has it, else FILE:NUMBER")
    parser.add_argument("--embedding-column", metavar="C", help="rows with a vector here keep it; it is checked")
    parser.add_argument(
        "--keep", action="append", metavar="C", help="put this column into OUT (repeat it; '' for none; default: all)"
    )
    parser.add_argument(
        "--output-dtype", default="float32", metavar="TYPE", help="float32 (default), float16, int8, uint8 or binary"
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="an earlier int8 or uint8 output whose scale this one takes"
    )
    parser.add_argument(
        "--split",
        type=_tokens,
        metavar="TOKENS",
        help="cut longer texts into chunks of this many tokens, a row each; max: as many as the model reads",
    )
    parser.add_argument("--overlap", type=int, default=0, metavar="N", help="tokens that two chunks have in common")
    parser.add_argument("--overwrite", action="store_true", help="replace an OUT that was made otherwise")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="embed here, or on a Ray cluster")
    parser.add_argument("--actors", type=int, metavar="N", help="Ray: actors with the model (default: one per device)")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="on standard error")
    add_config_options(parser, but=("calibration",))
    for config, title in ((SparseConfig, "sparse"), (MultiVectorConfig, "multi")):
        add_more_options(parser, config, f"configuration of --kind {title}", but=_OWN)


def run(args: argparse.Namespace) -> int:
    """Embed, and say on standard output what is in OUT."""
    from akidb_mlx.corpus import load_encoder, read_corpus

    config = read_config(args, _checked(args))
    corpus = read_corpus(
        args.inputs,
        args.to,
        text_column=args.text_column,
        id_column=args.id_column,
        embedding_column=args.embedding_column,
        kind=args.kind,
        keep=args.keep,
        output_dtype=args.output_dtype,
        calibration=args.calibration,
        overwrite=args.overwrite,
        split=args.split,
        overlap=args.overlap,
    )
    encoder: Any
    if args.engine == "ray" and args.split is not None:
        raise ConfigError("--split cuts by the model's own tokens, which is done here: leave --engine ray out")
    if args.engine == "ray":
        from akidb_mlx.ray import RayEncoder

        encoder = RayEncoder(config, actors=args.actors, kind=args.kind)
    else:
        encoder = load_encoder(config, args.kind)
    with encoder:
        summary = corpus.embed(encoder, show_progress=args.progress)
    sys.stdout.write(f"{summary}\n")
    return 1 if summary.rejected and not summary.rows else 0


def _tokens(said: str) -> int | str:
    """A number of tokens, or "max"."""
    if said != "max" and not (said.isdecimal() and int(said)):
        raise argparse.ArgumentTypeError(f"takes a number of tokens or max, not {said!r}")
    return said if said == "max" else int(said)


def _checked(args: argparse.Namespace) -> type[ModelConfig]:
    """The configuration that `--kind` has.

    Raises:
        ConfigError: an option was given that only other kinds have.
    """
    config = _CONFIGS[args.kind]
    for name in vars(args):
        others = [kind for kind, other in _CONFIGS.items() if name in other.model_fields]
        if others and name not in config.model_fields and name not in _OWN:
            raise ConfigError(f"--{name.replace('_', '-')} is for --kind {' and '.join(others)}, not {args.kind}")
    return config
