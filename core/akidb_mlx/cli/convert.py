"""`akidb-mlx convert MODEL OUT`: packed weights, then what they cost."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from akidb_mlx.any_model import AnyConfig, load_any
from akidb_mlx.cli.kind import add_kind_options, read_config_of_kind
from akidb_mlx.convert import MIXES, MODES, Conversion, convert
from akidb_mlx.doctor.comparison import Comparison, compare, table
from akidb_mlx.doctor.texts import read_docstrings, read_texts

__all__ = ["EXAMPLE", "add_arguments", "add_texts_argument", "comparison_lines", "run"]

EXAMPLE = "akidb-mlx convert sentence-transformers/all-MiniLM-L6-v2 minilm-8bit"

# Below it the nearest texts are others often enough to be seen.
_FEW_KEPT = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="a folder, package:NAME, or a model on the Hub")
    parser.add_argument("out", metavar="OUT", help="the new folder; it must not exist")
    parser.add_argument("--bits", type=int, metavar="N", help="per number: 8 (default), or what the mode has")
    parser.add_argument("--group-size", type=int, metavar="N", help="numbers that share a scale: 64, 32 or 128")
    parser.add_argument("--mode", default="affine", metavar="|".join(MODES), help="how numbers are packed")
    parser.add_argument(
        "--mix",
        default="alike",
        metavar="|".join(MIXES),
        help="edges8: the table of words, the first and the last layer in 8 bit; layers8: all but the table of words",
    )
    parser.add_argument(
        "--stored-dtype", metavar="float32|float16|bfloat16", help="of what is not packed, and of a GPU's work"
    )
    parser.add_argument("--no-compare", action="store_true", help="do not load the two and measure")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_texts_argument(parser)
    add_kind_options(parser)


def add_texts_argument(parser: argparse.ArgumentParser) -> None:
    """The texts that two models are compared on."""
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="compare on these, a text per line, each of which looks for the others; by default the standard library's "
        "docstrings",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, say what was written, compare."""
    config = read_config_of_kind(args)
    texts = None if args.no_compare or args.texts is None else read_texts(args.texts)
    done = _convert(args, config)
    if not args.json:
        _say(_told(done))
    if args.no_compare:
        compared = None
    else:
        with contextlib.ExitStack() as stack:
            pair = [config, config.with_changes(model=str(done.path), revision=None)]
            models: list[Any] = [stack.enter_context(load_any(one)) for one in pair]
            compared = compare(models[0], models[1], texts or read_docstrings())
    if args.json:
        _say(json.dumps(_plain(done, compared), indent=2, ensure_ascii=False))
    elif compared is not None:
        for line in (*comparison_lines(compared), *_advice(done, compared)):
            _say(line)
    return 0


def comparison_lines(compared: Comparison) -> list[str]:
    """The table, with what it was measured on."""
    rows = table(compared)
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    return [*lines, f"  ({compared.queries} queries, {compared.documents} documents: {compared.texts})"]


def _convert(args: argparse.Namespace, config: AnyConfig) -> Conversion:
    kind: Any = "embedder" if args.kind == "hybrid" else args.kind
    return convert(
        config.model,
        args.out,
        bits=args.bits,
        group_size=args.group_size,
        mode=args.mode,
        mix=args.mix,
        stored_dtype=args.stored_dtype,
        kind=kind,
        revision=config.revision,
        cache_dir=config.cache_dir,
        local_files_only=config.local_files_only,
    )


def _told(done: Conversion) -> str:
    size = f"{done.bytes_before / 1e6:.1f} → {done.bytes_after / 1e6:.1f} MB"
    notes = "".join(f"\n  note: {note}" for note in done.notes)
    return f"{done.path}: {done.layers} layers in {done.packing}, mix {done.mix}; weights {size}{notes}"


def _advice(done: Conversion, compared: Comparison) -> list[str]:
    kept = compared.recall_at_10
    if kept >= _FEW_KEPT:
        return []
    others = ["--bits 8", "--bits 6", "--mix layers8"] if done.packing.bits < 6 else ["--bits 8"]
    return [
        f"  {1 - kept:.0%} of the ten nearest are others; {' and '.join(others)} keep more: measure which of them does"
    ]


def _plain(done: Conversion, compared: Comparison | None) -> dict[str, Any]:
    packing = {**done.packing.said(), "mix": done.mix}
    about = {"path": str(done.path), "kind": done.kind, "packing": packing, "layers": done.layers}
    size = {"bytes_before": done.bytes_before, "bytes_after": done.bytes_after, "notes": list(done.notes)}
    return {**about, **size, "comparison": None if compared is None else compared.plain()}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
