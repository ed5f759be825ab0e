"""Rows of long texts → rows of their chunks, so that the model reads all of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from akidb_mlx.corpus.merging import fit
from akidb_mlx.corpus.row import Row
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.pipeline.face import Face
from akidb_mlx.splitting import TextSplitter, splitter_for

__all__ = ["CHUNK", "chunk_columns", "make_splitter", "split_rows"]

CHUNK = "chunk"
"""The output's column that says which chunk of a text a row is, from 0."""


def make_splitter(encoder: Any, split: int | str, overlap: int) -> TextSplitter:
    """By the encoder's own tokens; `split` is their number or "max".

    Raises:
        ConfigError: numbers that do not fit the model; the model is elsewhere.
    """
    if not isinstance(encoder, Face | HybridEmbedder):
        raise ConfigError("texts are split by the model's own tokens, which needs the model here, not behind an engine")
    return splitter_for(encoder, None if split == "max" else int(split), overlap)  # type: ignore[arg-type]


def split_rows(rows: Iterator[tuple[int, Row]], splitter: TextSplitter) -> Iterator[tuple[int, Row]]:
    """The rows, each of whose texts is read whole; what has no text, or its vector already, stays as it is."""
    for index, row in rows:
        if row.reason is not None or row.text is None or row.vector is not None:
            row.chunk = 0
            yield index, row
            continue
        chunks = splitter.split(row.text)
        for place, chunk in enumerate(chunks):
            last = place == len(chunks) - 1
            yield index, replace(row, text=chunk.text, chunk=place, ends=last, size=row.size // len(chunks))


def chunk_columns(table: pa.Table, rows: list[Row], text: str) -> pa.Table:
    """The table of these rows with the column `chunk`, and the chunks' own texts where texts are kept."""
    place = table.schema.get_field_index(text)
    if place >= 0:
        field = table.schema.field(place)
        texts = fit(pa.array([row.text for row in rows], pa.string()), field.type)
        table = table.set_column(place, field, texts)
    return table.add_column(1, pa.field(CHUNK, pa.int32()), pa.array([row.chunk for row in rows], pa.int32()))
