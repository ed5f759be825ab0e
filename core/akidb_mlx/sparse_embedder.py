"""SparseEmbedder, the class for learned sparse encoders: texts in, rows that are nearly all zero out."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Literal, Protocol, Self, runtime_checkable

from akidb_mlx import sparse_scores
from akidb_mlx.checkpoint.heads import AutoEncoderHead
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.effective.fingerprint import fingerprint
from akidb_mlx.effective.sparse_recipe import (
    SPARSE_FACTS,
    SparseRecipe,
    read_sparse_recipe,
    settled_active_dims,
    sparse_fingerprint_facts,
    sparse_prompts,
)
from akidb_mlx.errors import AkiDBMLXError, InputError
from akidb_mlx.pipeline.call import Call, OnError, Usage
from akidb_mlx.pipeline.encoders import CountingEncoder, SideEncoder, TextEncoder
from akidb_mlx.pipeline.face import Face
from akidb_mlx.pipeline.inputs import as_async, checked, checked_async, checked_stream, positive
from akidb_mlx.pipeline.loaded_model import Kind, LoadedModel
from akidb_mlx.pipeline.static_queries import StaticQueryPipeline, static_query_tokenizer
from akidb_mlx.pipeline.text_pipeline import TextPipeline
from akidb_mlx.sparse_rows import SparseRows
from akidb_mlx.vectors import Embeddings

__all__ = ["SparseEmbedder", "SparseEmbedderProtocol"]

SPARSE: Kind[SparseConfig, SparseRecipe] = Kind(
    "sparse",
    read_sparse_recipe,
    frozenset({"max_active_dims", "query_prompt", "document_prompt", "on_overlong"}),
)


@runtime_checkable
class SparseEmbedderProtocol(Protocol):
    """What the adapters need of a sparse embedder; `SparseEmbedder` and `testing.FakeSparseEmbedder` satisfy it."""

    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def encode_query(self, texts: Sequence[str]) -> SparseRows: ...  # noqa: D102
    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> SparseRows: ...  # noqa: D102
    async def aencode_query(self, texts: Sequence[str]) -> SparseRows: ...  # noqa: D102
    async def aencode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> SparseRows: ...  # noqa: D102
    def similarity(self, a: SparseRows, b: SparseRows) -> Embeddings: ...  # noqa: D102


class SparseEmbedder(Face[SparseConfig, SparseRecipe]):
    """A loaded model. Make one with `SparseEmbedder.load`; those with equal settings share one loaded model.

    All methods may be called from any thread, the async ones from any event loop.
    """

    _kind = SPARSE

    def __init__(self, config: SparseConfig, loaded: LoadedModel[SparseRecipe]) -> None:
        """Use `SparseEmbedder.load` instead."""
        self.config = config
        self._loaded = loaded
        self._checkpoint = loaded.recipe.checkpoint
        self._prompts = sparse_prompts(config, loaded.recipe)
        self._active_dims = settled_active_dims(config, loaded.recipe)
        self._encoder = _encoder(loaded)
        self._path = TextPipeline(loaded, self._encoder)
        self._static = _static(config, loaded)
        super().__init__(config, loaded)

    @classmethod
    def load(cls, model: "str | PathLike[str] | SparseConfig | None" = None, **fields: Any) -> Self:
        """Load a folder, `package:NAME`, a Hub id or a SparseConfig; nothing takes what the config says.

        `fields` are SparseConfig's and win over its other sources.

        Raises:
            ConfigError: an unknown option, a bad value or a bad file of settings.
            ModelNotFoundError: no model of that name is here or on the Hub.
            CheckpointError: a file of the model is missing, broken or contradicts another.
            UnsupportedModelError: the model's files ask for what is not computed here.
            BackendError: the device is not there, or has too little memory.

        Examples:
            >>> with SparseEmbedder.load("naver/splade-v3", max_active_dims=128) as sparse:  # doctest: +SKIP
            ...     sparse.encode_document(["MLX is an array framework."]).to_dicts()
        """
        return cls._open(SparseConfig, SPARSE, model, fields)

    @property
    def dimension(self) -> int:
        """Width of the rows: the model's vocabulary, or an autoencoder's latents.

        Examples:
            >>> sparse.dimension == sparse.encode(["a text"]).dimension
            True
        """
        return self._checkpoint.dimension

    @property
    def max_active_dims(self) -> int | None:
        """Most entries of a row, where a call says nothing else; None for any number.

        Examples:
            >>> sparse.max_active_dims  # None: all that are not zero
        """
        return self._active_dims

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the rows (hex); equal on every machine. Computed on first use.

        Examples:
            >>> len(sparse.fingerprint)
            64
        """
        return fingerprint(sparse_fingerprint_facts(self.config, self._loaded.recipe_of_files))

    def encode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        show_progress: bool = False,
    ) -> SparseRows:
        """Encode texts, each after `prompt`, else the prompt called `prompt_name`, else the checkpoint's default.

        `max_active_dims` keeps that many entries of each row, those of the greatest absolute value, of equal ones those
        of the lower place; it wins over the model's number, upwards too. Where the model has another way for queries
        than for documents the texts take the one that its files call the default.

        Returns:
            Rows in the order of `texts`. An empty text need not have an empty row: the model reads its special tokens.
            Lone surrogates count as U+FFFD. Texts beyond `max_seq_length` are cut, or refused with
            `on_overlong="error"`.

        Raises:
            TypeError: a bare str, or an item that is no str; a `max_active_dims` that is no whole number.
            InputError: an unknown prompt name, a text without tokens, a row that is not finite; a `max_active_dims`
                below 1, or above an autoencoder's latents; a model whose files name no default way.
            QueueFullError: too much waits already. ClosedError: after `close`.

        Examples:
            >>> len(sparse.encode(["a text", "another"]))
            2
        """
        return self._encode(
            texts, self._call(self._prompts.choose(prompt_name, prompt), max_active_dims), show_progress
        )

    def encode_query(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """Encode queries with the query prompt; they overtake documents. Otherwise as `encode`.

        Where the model has a weight per token for queries, nothing is computed on the device, and an empty query has an
        empty row.

        Examples:
            >>> rows = sparse.encode_query(["what is MLX?"], max_active_dims=4)
            >>> len(rows.values) <= 4
            True
        """
        return self._encode(texts, self._call(self._prompts.query, max_active_dims, "query"), show_progress)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        max_active_dims: int | None = None,
        show_progress: bool = False,
        wait: bool = False,
    ) -> SparseRows:
        """Encode documents with the document prompt. Otherwise as `encode`.

        With `wait` it waits for room in a full queue rather than raise QueueFullError.

        Examples:
            >>> sparse.encode_document(["MLX is an array framework."]).to_dense().shape == (1, sparse.dimension)
            True
        """
        call = replace(self._call(self._prompts.document, max_active_dims, "document"), wait=wait)
        return self._encode(texts, call, show_progress)

    async def aencode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        show_progress: bool = False,
    ) -> SparseRows:
        """`encode` without blocking the event loop; cancelling it takes its texts out of the queue.

        Examples:
            >>> len(asyncio.run(sparse.aencode(["a text"])))
            1
        """
        call = self._call(self._prompts.choose(prompt_name, prompt), max_active_dims)
        return await self._aencode(texts, call, show_progress)

    async def aencode_query(
        self, texts: Sequence[str], *, max_active_dims: int | None = None, show_progress: bool = False
    ) -> SparseRows:
        """`encode_query` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(sparse.aencode_query(["what is MLX?"])))
            1
        """
        return await self._aencode(texts, self._call(self._prompts.query, max_active_dims, "query"), show_progress)

    async def aencode_document(
        self,
        texts: Sequence[str],
        *,
        max_active_dims: int | None = None,
        show_progress: bool = False,
        wait: bool = False,
    ) -> SparseRows:
        """`encode_document` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(sparse.aencode_document(["MLX is an array framework."])))
            1
        """
        call = replace(self._call(self._prompts.document, max_active_dims, "document"), wait=wait)
        return await self._aencode(texts, call, show_progress)

    async def aencode_with_usage(
        self,
        texts: Sequence[str],
        side: Side | None = None,
        prompt_name: str | None = None,
        max_active_dims: int | None = None,
        on_overlong: Literal["truncate", "error"] | None = None,
        max_tokens: int | None = None,
        *,
        prompt: str | None = None,
        first: int = 0,
        errors: dict[int, AkiDBMLXError] | None = None,
    ) -> tuple[SparseRows, Usage]:
        """The rows and what they used, for a server: `aencode_query`, `aencode_document` or `aencode` by `side`.

        `on_overlong` wins over the configuration; more than `max_tokens` in all is an InputError. `first` is the
        first text's place, for messages. A text that cannot be embedded is an error, or with `errors` stands there by
        its place and has a row without entries.

        Examples:
            >>> rows, usage = asyncio.run(sparse.aencode_with_usage(["what is MLX?"], "query"))
            >>> len(rows), usage.tokens > 0
            (1, True)
        """
        call = self._call(self._prompts.choose(prompt_name, prompt, side), max_active_dims, side)
        call = replace(
            call, on_overlong=on_overlong or call.on_overlong, max_tokens=max_tokens, first=first, errors=errors
        )
        return await self._aencode(texts, call, show_progress=False), call.usage

    def encode_stream(
        self,
        texts: Iterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[SparseRows]:
        """Encode any iterable in bounded memory: rows of at most `chunk_size` texts at a time, in order.

        A few chunks are read ahead; one of long texts ends early. `side` takes the query or the document
        prompt. Waits for room in the queue rather than raise QueueFullError. Closing the iterator early takes
        what is queued out again. A text that cannot be encoded ends the stream, or with `on_error` gives a
        row without entries, after `on_error(place, error)`.

        Examples:
            >>> texts = (f"text {number}" for number in range(25))
            >>> [len(rows) for rows in sparse.encode_stream(texts, chunk_size=10)]
            [10, 10, 5]
        """
        call = self._stream_call(prompt_name, prompt, max_active_dims, side, on_error)
        source, size = checked_stream(texts), positive(chunk_size)
        if (static := self._static_for(call)) is not None:
            return static.stream(source, size, call, on_error)
        return self._path.stream(source, size, call, on_error)

    def aencode_stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> AsyncIterator[SparseRows]:
        """`encode_stream` for an event loop; `texts` may be an async iterable.

        Examples:
            >>> async def count(texts):
            ...     return sum([len(rows) async for rows in sparse.aencode_stream(texts)])
            >>> asyncio.run(count(["a text", "another"]))
            2
        """
        call = self._stream_call(prompt_name, prompt, max_active_dims, side, on_error)
        source = checked_async(texts) if isinstance(texts, AsyncIterable) else as_async(checked_stream(texts))
        if (static := self._static_for(call)) is not None:
            return static.astream(source, positive(chunk_size), call, on_error)
        return self._path.astream(source, positive(chunk_size), call, on_error)

    def count_tokens(self, texts: Sequence[str], prompt: str = "", *, side: Side | None = None) -> list[int]:
        """Tokens of each text with prompt and special tokens, after truncation: what is read of it as a document.

        With `side` "query" what is read of a query, where a model has another way for those.

        Examples:
            >>> len(sparse.count_tokens(["what is MLX?"]))
            1
        """
        texts = checked(texts)
        if side == "query" and self._static is not None:
            return self._static.count_tokens(texts, prompt)
        return [len(encoding) for encoding in self._path.encoder.encode(texts, prompt, side=side).encodings]

    def similarity(self, a: SparseRows, b: SparseRows) -> Embeddings:
        """(n, m) float32 scores of rows `a` against rows `b`, by the checkpoint's similarity function.

        Examples:
            >>> rows = sparse.encode(["a text", "another"])
            >>> sparse.similarity(rows[:1], rows).shape
            (1, 2)
        """
        return sparse_scores.similarity(a, b, self._checkpoint.similarity)

    def similarity_pairwise(self, a: SparseRows, b: SparseRows) -> Embeddings:
        """(n,) float32 scores of row i of `a` against row i of `b`, by the checkpoint's similarity function.

        Examples:
            >>> rows = sparse.encode(["a text", "another"])
            >>> sparse.similarity_pairwise(rows, rows).shape
            (2,)
        """
        return sparse_scores.similarity_pairwise(a, b, self._checkpoint.similarity)

    def decode(self, rows: SparseRows, top_k: int | None = None) -> list[list[tuple[str | None, float]]]:
        """The tokens of each row with their weights, heaviest first, of equal ones the lower place; at most `top_k`.

        A place beyond the tokenizer's vocabulary, which a padded table of embeddings has, is None.

        Raises:
            InputError: `top_k` below 1; rows of another dimension; an autoencoder, whose latents are no words.

        Examples:
            >>> words = sparse.decode(sparse.encode(["a text"]), top_k=2)
            >>> len(words), len(words[0]) <= 2
            (1, True)
        """
        if isinstance(self._loaded.recipe.head, AutoEncoderHead):
            raise InputError(f"{self._checkpoint.name} is a sparse autoencoder: its latents are no words")
        if isinstance(rows, SparseRows) and rows.dimension != self.dimension:
            raise InputError(f"the rows have {rows.dimension} dimensions; {self._checkpoint.name} has {self.dimension}")
        return sparse_scores.decode(rows, self._loaded.tokenizer.token, top_k)

    def info(self) -> dict[str, Any]:
        """The recipe with the source of each fact, the device, memory and counters; plain values.

        Examples:
            >>> sparse.info()["dimension"] == sparse.dimension
            True
        """
        from akidb_mlx.effective.describe import describe

        return {
            **describe(self.config, self._loaded.recipe, SPARSE_FACTS),
            "dimension": self.dimension,
            **self._live(),
        }

    def __repr__(self) -> str:
        return f"SparseEmbedder({self._checkpoint.name!r}, dimension={self.dimension})"

    def _encode(self, texts: Sequence[str], call: Call[SparseRows], show_progress: bool) -> SparseRows:
        static = self._static_for(call)
        return self._path.encode(texts, call, show_progress) if static is None else static.encode(texts, call)

    async def _aencode(self, texts: Sequence[str], call: Call[SparseRows], show_progress: bool) -> SparseRows:
        static = self._static_for(call)
        if static is not None:
            return await static.aencode(texts, call)
        return await self._path.aencode(texts, call, show_progress)

    def _static_for(self, call: Call[SparseRows]) -> StaticQueryPipeline | None:
        """What computes a call without the device, if anything does."""
        if self._static is None:
            return None
        way = call.side or self._checkpoint.default_route
        if way is None:
            raise InputError(
                f"{self._checkpoint.name} computes queries otherwise than documents, and its files name no default: "
                "call encode_query or encode_document"
            )
        return self._static if way == "query" else None

    def _call(self, prompt: str, max_active_dims: int | None, side: Side | None = None) -> Call[SparseRows]:
        self._check_open()
        finish = partial(
            sparse_scores.finish_sparse,
            dimension=self.dimension,
            max_active_dims=self._checked_active_dims(max_active_dims),
        )
        return Call(prompt, finish, urgent=side == "query", side=side, on_overlong=self.config.on_overlong)

    def _stream_call(
        self,
        prompt_name: str | None,
        prompt: str | None,
        max_active_dims: int | None,
        side: Side | None,
        on_error: OnError | None,
    ) -> Call[SparseRows]:
        call = self._call(self._prompts.choose(prompt_name, prompt, side), max_active_dims, side)
        # A stream is bulk work, also one of queries.
        return replace(call, urgent=False, errors=None if on_error is None else {})

    def _checked_active_dims(self, asked: int | None) -> int | None:
        if asked is None:
            return self._active_dims
        sparse_scores.check_active_dims(asked)
        if isinstance(self._loaded.recipe.head, AutoEncoderHead) and asked > self.dimension:
            raise InputError(f"max_active_dims is {asked}; {self._checkpoint.name} has {self.dimension} latents")
        return asked


def _encoder(loaded: LoadedModel[SparseRecipe]) -> CountingEncoder:
    include_prompt = loaded.recipe.checkpoint.include_prompt
    encoder = TextEncoder(loaded.tokenizer, include_prompt=include_prompt)
    sides = {side: TextEncoder(one, include_prompt=include_prompt) for side, one in loaded.side_tokenizers.items()}
    return SideEncoder(encoder, sides) if sides else encoder


def _static(config: SparseConfig, loaded: LoadedModel[SparseRecipe]) -> StaticQueryPipeline | None:
    static = loaded.recipe.checkpoint.static_queries
    if static is None:
        return None

    def told(cut: int, of: int, limit: int | None) -> None:
        loaded.engine.stats.truncated_texts += cut
        loaded.warn_once(
            f"{cut} of {of} queries have more than {limit} tokens and are cut there; later ones are only counted "
            "(info())",
            kind="truncated queries",
        )

    length = config.max_seq_length or static.max_seq_length
    return StaticQueryPipeline(static_query_tokenizer(static, length, config.tokenizer), static.weights, told)
