"""Numbered files side by side are read as one table, by the first one's types: a new one must be of the same kind."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from akidb_mlx.corpus.output import read_recipe
from akidb_mlx.errors import ConfigError, InputError
from akidb_mlx.small_vectors import needs_calibration

__all__ = ["check_siblings"]

_NUMBERED = re.compile(r"(|.*[-_. ]|.*part|.*shard)[0-9]+")
_LOOKED_AT = 100


def check_siblings(output: Path, recipe: Mapping[str, Any]) -> None:
    """Raise ConfigError where a numbered file beside a numbered output has other vectors, or another type of them.

    DuckDB and datasets take the first file's type for all: floats behind int8 are zeros there, without a word.
    """
    for sibling in islice(_siblings(output), _LOOKED_AT):
        try:
            made = read_recipe(sibling)
        except InputError:  # not ours, or damaged
            continue
        if told := _difference(made, recipe):
            raise ConfigError(
                f"{sibling} beside it {told}; who reads both as one table gets wrong numbers: write to another folder, "
                "or under another name"
            )


def _siblings(output: Path) -> Iterator[Path]:
    numbered = _NUMBERED.fullmatch(output.stem)
    for file in sorted(output.parent.glob(f"*{output.suffix}")) if numbered else ():
        other = _NUMBERED.fullmatch(file.stem)
        if file != output and other is not None and numbered is not None and other[1] == numbered[1]:
            yield file


def _difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for name, said in (("kind", "kind of rows"), ("output_dtype", "output_dtype"), ("dimension", "dimension")):
        if made.get(name) != wanted.get(name):
            return f"has the {said} {made.get(name)}, not {wanted.get(name)}"
    if made.get("fingerprint") != wanted.get("fingerprint"):
        return f"was made by another recipe ({made.get('model_name')})"
    if needs_calibration(str(wanted.get("output_dtype"))) and made.get("calibration") != wanted.get("calibrated_by"):
        return "has another scale of its int8 numbers (give it as calibration)"
    return ""
