"""The run: sources → rows → parts → the output; a second run goes on where the first one ended."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa

from akidb_mlx.checkpoint.modules import WHOLE_NUMBERS
from akidb_mlx.config.sources import expanded
from akidb_mlx.corpus.columns import Columns, settle_columns
from akidb_mlx.corpus.embedding import Encoder, PlacedRow, embed_parts, finish_part
from akidb_mlx.corpus.forms import KINDS, Form, form_of, kind_of
from akidb_mlx.corpus.output import read_recipe, size_of
from akidb_mlx.corpus.output_recipe import differences, make_recipe
from akidb_mlx.corpus.overlap import Committing, Following, read_ahead
from akidb_mlx.corpus.parts import Parts
from akidb_mlx.corpus.progress import Progress
from akidb_mlx.corpus.quantization import calibrate, check_output_dtype
from akidb_mlx.corpus.readers import read_rows
from akidb_mlx.corpus.schema import Table, settle_schema
from akidb_mlx.corpus.siblings import check_siblings
from akidb_mlx.corpus.sources import Source, describe_sources, digest_contents, find_sources
from akidb_mlx.corpus.splitting import make_splitter, split_rows
from akidb_mlx.corpus.summary import Summary
from akidb_mlx.corpus.writers import Output, check_format
from akidb_mlx.errors import BackendError, ConfigError, InputError
from akidb_mlx.small_vectors import needs_calibration
from akidb_mlx.splitting import TextSplitter

__all__ = ["Corpus", "Summary", "embed_corpus", "read_corpus"]

# What all parts have together, which the output's recipe tells too.
_TOTALS = ("rows", "rejected", "given", "texts", "truncated", "empty")
# Rows that are read and not yet asked for, in bytes of the input.
_AHEAD_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Corpus:
    """Inputs that were found and whose columns are settled, and where their vectors go. See `read_corpus`."""

    sources: Sequence[Source]
    columns: Columns
    output: Path
    output_dtype: str = "float32"
    calibrated_by: Mapping[str, Any] | None = None
    overwrite: bool = False
    split: int | str | None = None
    overlap: int = 0

    def embed(self, encoder: Encoder, *, show_progress: bool = False) -> Summary:
        """Compute what is not computed yet and write the output; rows that cannot be used go to the rejects.

        Texts want an embedder, pairs a `PairScorer`.

        Raises:
            ConfigError: another recipe made the output, or a numbered file beside it; or another run is writing it.
            OSError: an input or the output's disk failed; what is embedded so far is kept for the next run.
            BackendError: the device failed, or its memory was too short for a minute; likewise.
        """
        form = form_of(encoder.info(), encoder.dimension, self.columns.kind, self.output_dtype)
        check_output_dtype(self.output_dtype, encoder.dimension)
        self._check_given_vectors(encoder)
        recipe = self._recipe(encoder)
        splitter = None if self.split is None else make_splitter(encoder, self.split, self.overlap)
        if self.output.exists() and not self.overwrite:
            return self._finished_before(recipe)
        if not self.output.exists():
            check_siblings(self.output, recipe)
        parts = Parts(self.output)
        try:
            self._check_parts(parts, recipe)
            before = sum(facts.rows + facts.rejected for facts in parts.facts)
            stats, began = encoder.stats(), time.perf_counter()
            with Progress(self.sources, show_progress) as progress, _kept_for_next_run(parts):
                schema = self._settle(parts)
                progress.start(parts.after[0], parts.facts[-1].position if parts.facts else 0, before)
                totals = self._compute(encoder, parts, schema, form, recipe, splitter, progress)
            seconds, after = time.perf_counter() - began, encoder.stats()
            if not totals["truncated"]:  # an encoder elsewhere tells only how many
                totals["truncated"] = after["truncated_texts"] - stats["truncated_texts"]
            parts.remove()
            return Summary(
                self.output,
                **totals,
                bytes=size_of(self.output),
                resumed=before,
                tokens=after["tokens"] - stats["tokens"],
                seconds=seconds,
            )
        finally:
            parts.close()

    def _compute(
        self,
        encoder: Encoder,
        parts: Parts,
        schema: pa.Schema,
        form: Form,
        recipe: dict[str, Any],
        splitter: TextSplitter | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Read, compute, commit and write, each on a thread of its own; what the parts have together."""
        totals: dict[str, Any] = {}

        def told() -> dict[str, Any]:
            return recipe | totals | {"calibration": self._calibration(parts, encoder)}

        def commit(part: Sequence[PlacedRow]) -> None:
            parts.add(*finish_part(part, form, self.columns, schema))
            following.added()

        with contextlib.ExitStack() as ends:
            output = Output(self.output, parts, schema, form, recipe, told)
            following = ends.enter_context(Following(parts, output.write))
            committing = ends.enter_context(Committing(commit))
            if parts.recipe is None:
                committing.first(lambda: self._begin(parts, recipe))
            rows = read_rows(self.sources, self.columns, schema, parts.after)
            rows = ends.enter_context(contextlib.closing(read_ahead(rows, lambda placed: placed[1].size, _AHEAD_BYTES)))
            for part in embed_parts(rows if splitter is None else split_rows(rows, splitter), encoder, form, progress):
                committing.add(part)
            committing.wait()
            progress.end(f"writing {self.output.name}")
            totals |= {name: sum(getattr(facts, name) for facts in parts.facts) for name in _TOTALS}
            following.finish()
        return totals

    def _begin(self, parts: Parts, recipe: dict[str, Any]) -> None:
        """Say what the first part is made by, before there is one."""
        recipe["inputs"]["content"] = digest_contents(self.sources, names=self._ids_say_files)
        parts.recipe = recipe

    def _settle(self, parts: Parts) -> pa.Schema:
        """The output's columns: as the first run settled them, else from the inputs."""
        schema = parts.schema
        if schema is None:
            parts.schema = schema = settle_schema(self.sources, self.columns, _tables(parts))
        return schema

    def _recipe(self, encoder: Encoder) -> dict[str, Any]:
        embedding = {
            "embedding_column": self.columns.embedding,
            "output_dtype": self.output_dtype,
            "calibrated_by": self.calibrated_by,
        }
        return make_recipe(
            encoder.info(),
            encoder.fingerprint,
            encoder.config.dtype,
            self.columns.kind,
            text_column=self.columns.text,
            id_column=self.columns.id,
            keep=self.columns.keep,
            on_overlong=encoder.config.on_overlong,
            inputs=describe_sources(self.sources),
            **({} if self.split is None else {"split": self.split, "overlap": self.overlap}),
            **(embedding if self.columns.query is None else {"query_column": self.columns.query}),
        )

    def _finished_before(self, recipe: Mapping[str, Any]) -> Summary:
        try:
            made = read_recipe(self.output)
        except InputError as error:
            raise ConfigError(f"{error}; write to another file, or overwrite it") from None
        if changes := differences(made, self._with_inputs_of(made, recipe)):
            told = f"{self.output} was made otherwise: {changes}"
            raise ConfigError(f"{told}; write to another file, or overwrite it (--overwrite)")
        if Parts.exist(self.output):  # of a run that was killed at its very end
            Parts(self.output).remove()
        totals = {name: made.get(name, 0) for name in _TOTALS}
        done = totals["rows"] + totals["rejected"]
        return Summary(self.output, **totals, resumed=done, finished_before=True)

    def _check_parts(self, parts: Parts, recipe: dict[str, Any]) -> None:
        made = parts.recipe
        changes = differences(made, self._with_inputs_of(made, recipe)) if made else ""
        if changes and not self.overwrite:
            raise ConfigError(
                f"{parts.folder} was begun otherwise: {changes}; go on with that, write to another file, or "
                "overwrite it (--overwrite)"
            )
        if changes or not made:
            parts.clear()  # and their recipe
        else:
            recipe["inputs"] = made["inputs"]

    def _with_inputs_of(self, made: Mapping[str, Any], recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe as `made` says its inputs, where they are the same: unmoved and untouched, or equal in content."""
        old, new = made.get("inputs", {}), recipe["inputs"]
        same = old.get("digest") == new["digest"] or (
            "content" in old
            and all(old.get(name) == new[name] for name in ("files", "bytes"))
            and old["content"] == digest_contents(self.sources, names=self._ids_say_files)
        )
        return {**recipe, "inputs": old} if same else recipe

    @property
    def _ids_say_files(self) -> bool:
        """Whether an id, FILE:NUMBER or a text file's name, says how a file was named."""
        return self.columns.id is None or not all(source.is_table for source in self.sources)

    def _check_given_vectors(self, encoder: Encoder) -> None:
        """Vectors in a file of ours must be this model's; of other files nobody can tell."""
        for source in self.sources if self.columns.embedding else ():
            try:
                made = read_recipe(source.path) if source.suffix == ".parquet" else {}
            except InputError:
                continue
            if made.get("fingerprint", encoder.fingerprint) != encoder.fingerprint:
                raise ConfigError(f"the vectors in {source.name} were made by another recipe ({made['model_name']})")
            if made.get("output_dtype", "float32") not in ("float32", "float16"):
                raise ConfigError(f"the vectors in {source.name} are {made['output_dtype']}; keep float32 ones")

    def _calibration(self, parts: Parts, encoder: Encoder) -> Mapping[str, Any]:
        if self.calibrated_by is not None:
            return self.calibrated_by
        info, largest = encoder.info(), max((facts.largest for facts in parts.facts), default=0.0)
        whole = info.get("output") == WHOLE_NUMBERS and not info.get("normalize")
        return calibrate(self.output_dtype, largest, whole_numbers=whole)


def _tables(parts: Parts) -> list[Table]:
    """The parts of a release that did not settle a schema."""

    def read(index: int, name: str) -> Iterator[pa.Array]:
        yield from parts.table(index)[name].chunks

    return [Table(table.schema, partial(read, index)) for index, table in enumerate(parts.tables())]


@contextlib.contextmanager
def _kept_for_next_run(parts: Parts) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror} ({error.filename or parts.output})" if error.strerror else str(error)
        raise OSError(f"{reason}; {_safe(parts)}") from error
    except BackendError as error:
        raise BackendError(f"{error}; {_safe(parts)}", error.retry_after_s) from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted; {_safe(parts)}") from error


def _safe(parts: Parts) -> str:
    rows = sum(facts.rows for facts in parts.facts)
    return f"{rows:,} rows are safe in {parts.folder}: run the same again to go on"


def read_corpus(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    text_column: str = "text",
    id_column: str | None = None,
    embedding_column: str | None = None,
    query_column: str | None = None,
    kind: str = "dense",
    keep: Sequence[str] | None = None,
    output_dtype: str = "float32",
    calibration: str | PathLike[str] | None = None,
    overwrite: bool = False,
    split: int | str | None = None,
    overlap: int = 0,
) -> Corpus:
    """Find the inputs and check that they can be read and have these columns; needs no model.

    Args:
        inputs: JSONL, CSV, TSV, Parquet and text files, and folders of them; a text file is one row.
        output: a file that ends in .parquet, .jsonl or .npy.
        text_column: what is embedded.
        id_column: None takes `id` where every table has one, else FILE:NUMBER.
        query_column: where the text's partner is, if pairs are to be scored.
        kind: dense, sparse, multi or hybrid: what the encoder gives.
        embedding_column: where rows may have their vector already; those are checked and kept.
        keep: columns that go into the output; None: all.
        output_dtype: float32, float16, int8, uint8, ubinary or binary, which is the same here.
        calibration: an earlier int8 or uint8 output, so that both files' numbers have one scale.
        overwrite: replace an output, or unfinished parts, that another recipe or other inputs made.
        split: cut texts of more tokens than this, prompt and special tokens included, into chunks with a row each;
            "max": than the model reads. The rows keep their text's id, and say in `chunk` which of its chunks they are.
        overlap: tokens that two chunks of a text have in common.

    Raises:
        InputError: an input cannot be read or lacks a column. ConfigError: the output's name or folder.
    """
    path = expanded(output, "output")
    check_format(path, kind)
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}; it may be {', '.join(KINDS)}")
    if embedding_column is not None and kind != "dense":
        raise ConfigError(f"embedding_column is for dense vectors; rows of kind {kind} are all computed")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of the output does not exist")
    sources = find_sources(inputs, path)
    columns = settle_columns(
        sources,
        text_column,
        id_column,
        embedding_column,
        keep,
        query_column,
        kind if query_column is None else "reranker",
        split is not None,
    )
    if overlap and split is None:
        raise ConfigError("overlap is for chunks; say how many tokens these have with split")
    if split is not None and query_column is not None:
        raise ConfigError("split is for texts that are embedded; a pair is scored whole")
    calibrated_by = None
    if calibration is not None:
        calibrated_by = read_recipe(calibration)["calibration"]
        if not needs_calibration(output_dtype) or "scale" not in calibrated_by:
            raise ConfigError("a calibration is for output_dtype int8 or uint8, and taken from such an output")
    return Corpus(sources, columns, path, output_dtype, calibrated_by, overwrite, split, overlap)


def embed_corpus(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    encoder: Encoder,
    *,
    show_progress: bool = False,
    **options: Any,
) -> Summary:
    """`read_corpus` for the encoder's kind, then `Corpus.embed`: run it again after an interruption and it goes on."""
    options.setdefault("kind", kind_of(encoder.info()))
    return read_corpus(inputs, output, **options).embed(encoder, show_progress=show_progress)
