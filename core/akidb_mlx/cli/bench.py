"""`akidb-mlx bench MODEL`."""

import argparse
import json
import sys
from pathlib import Path

from akidb_mlx.bench import compare, load_pyplot, measure, measure_reranker, plot
from akidb_mlx.cli.kind import add_kind_options, read_config_of_kind
from akidb_mlx.cli.options import add_model_argument
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.device.tuning import TUNINGS
from akidb_mlx.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "akidb-mlx bench sentence-transformers/all-MiniLM-L6-v2 --plot speed.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw tokens per second by length (PNG, SVG, PDF)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="how long to measure each length, or number of candidates (default: 2)",
    )
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="WAY",
        help="measure ways to compute that are off by default, each beside the plain one (default: those for the "
        f"device); AKIDB_TUNING=WAY,… turns them on. There are {', '.join(TUNINGS)}",
    )
    add_kind_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if not 0 < args.seconds < float("inf"):
        raise ConfigError(f"--seconds is {args.seconds:g}; it must be more than 0")
    config = read_config_of_kind(args)
    if args.compare is not None:
        return _run_comparison(config, args)
    if isinstance(config, RerankerConfig):
        return _run_reranker(config, args)
    return _run_embedder(config, args)


def _run_embedder(config: EmbedderConfig | SparseConfig | MultiVectorConfig, args: argparse.Namespace) -> int:
    if args.plot:
        load_pyplot()  # now, rather than after the measuring
    result = measure(config, args.seconds)
    if args.plot:
        plot(result, args.plot)
    if args.json:
        sys.stdout.write(json.dumps(result.plain(), indent=2) + "\n")
        return 0
    write = sys.stdout.write
    write(f"{result.model} on {result.device}, {result.dtype}, {result.dimension} dimensions\n")
    write(f"load and first vector   {result.load_s:.2f} s\n")
    write(f"one query, P50 / P95    {result.query_p50_ms:.1f} / {result.query_p95_ms:.1f} ms\n")
    for words, rate in result.tokens_per_s.items():
        write(f"texts of {words:>4} words     {rate:>10,.0f} tokens/s\n")
    write(f"texts of all lengths    {result.mixed_tokens_per_s:>10,.0f} tokens/s, padding {result.padding_share:.1%}\n")
    write(f"peak memory of MLX      {result.peak_mb:.0f} MiB\n")
    return 0


def _run_comparison(config: object, args: argparse.Namespace) -> int:
    if not isinstance(config, EmbedderConfig):
        raise ConfigError("--compare is for embedders: it compares their vectors too")
    results = []
    for one in compare(config, args.compare, args.seconds):
        results.append(one.plain())
        if args.json:
            continue
        for what, (median, least, most) in (
            (f"{one.name}: {one.what}", (0.0, 0.0, 0.0)),
            ("  tokens/s, with / without (above 1 is faster)", one.tokens_per_s),
            ("  one query, with / without (below 1 is faster)", one.query_ms),
            ("  … after 3 s of rest", one.query_after_a_pause_ms),
        ):
            sys.stdout.write(f"{what:<50} {median:.2f} ({least:.2f}–{most:.2f})\n" if most else f"{what}\n")
        sys.stdout.write(f"{'  largest difference of the vectors':<50} {one.largest_difference:.1e}\n")
        sys.stdout.flush()
    if args.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        names = ",".join(result["name"] for result in results)
        sys.stdout.write(f"What helps stays on with AKIDB_TUNING={names} (leave out what does not).\n")
    return 0


def _run_reranker(config: RerankerConfig, args: argparse.Namespace) -> int:
    if args.plot:
        raise ConfigError(f"--plot draws tokens by length of texts; {config.model} is a reranker")
    result = measure_reranker(config, args.seconds)
    if args.json:
        sys.stdout.write(json.dumps(result.plain(), indent=2) + "\n")
        return 0
    write = sys.stdout.write
    write(f"{result.model} on {result.device}, {result.dtype}, {result.tokens_per_pair:.0f} tokens per pair\n")
    write(f"load and first score    {result.load_s:.2f} s\n")
    for count, rate in result.pairs_per_s.items():
        write(f"{count:>4} candidates         {rate:>10,.0f} pairs/s, {result.rank_ms[count]:,.1f} ms\n")
    write(f"peak memory of MLX      {result.peak_mb:.0f} MiB\n")
    return 0
