"""MultiVectorEmbedder, the class for late interaction: texts in, a vector per token out; and MaxSim."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from akidb_mlx.checkpoint.late_interaction import TokenPooling
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.effective.fingerprint import fingerprint
from akidb_mlx.effective.multi_vector_recipe import (
    MULTI_VECTOR_FACTS,
    MultiVectorRecipe,
    multi_vector_fingerprint_facts,
    multi_vector_prompts,
    read_multi_vector_recipe,
)
from akidb_mlx.errors import AkiDBMLXError, InputError
from akidb_mlx.maxsim import maxsim, maxsim_pairs
from akidb_mlx.model.host_rows import Rows
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.pipeline.call import Call, OnError, Usage
from akidb_mlx.pipeline.chat_renderer import ChatRenderer
from akidb_mlx.pipeline.chat_tokenizer import ChatTokenizer
from akidb_mlx.pipeline.device_maxsim import device_maxsim
from akidb_mlx.pipeline.encoders import ChatTextEncoder, CountingEncoder, SideEncoder, TextEncoder
from akidb_mlx.pipeline.face import Face
from akidb_mlx.pipeline.inputs import (
    as_async,
    checked,
    checked_async,
    checked_pairs,
    checked_ranking,
    checked_stream,
    positive,
)
from akidb_mlx.pipeline.loaded_model import Kind, LoadedModel
from akidb_mlx.pipeline.text_pipeline import TextPipeline
from akidb_mlx.pipeline.token_encoder import TokenEncoder, token_rules
from akidb_mlx.pipeline.tokenizer import Tokenizer
from akidb_mlx.scores import Ranked, ranking
from akidb_mlx.token_pooling import pool_tokens
from akidb_mlx.vectors import Embeddings

__all__ = ["MultiVectorEmbedder", "MultiVectorEmbedderProtocol", "TokenRows", "as_multi_vectors", "checked_factor"]

MULTI_VECTOR: Kind[MultiVectorConfig, MultiVectorRecipe] = Kind(
    "multi_vector",
    read_multi_vector_recipe,
    frozenset({"query_prompt", "document_prompt", "output_dtype", "token_pooling", "on_overlong"}),
)
# As for a reranker: this many batches of a ranking are as urgent as a query.
_URGENT_BATCHES = 8
Pair = tuple[str, str] | list[str]
TokenRows = MultiVectors | Sequence[ArrayLike]
"""Vectors per token of several texts: what `encode` gives, or arrays (tokens, dimension)."""


@runtime_checkable
class MultiVectorEmbedderProtocol(Protocol):
    """What one needs for late interaction; `MultiVectorEmbedder` and `testing.FakeMultiVectorEmbedder` satisfy it."""

    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def encode_query(self, texts: Sequence[str]) -> MultiVectors: ...  # noqa: D102
    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors: ...  # noqa: D102
    async def aencode_query(self, texts: Sequence[str]) -> MultiVectors: ...  # noqa: D102
    async def aencode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors: ...  # noqa: D102
    def similarity(self, queries: TokenRows, documents: TokenRows) -> Embeddings: ...  # noqa: D102


class MultiVectorEmbedder(Face[MultiVectorConfig, MultiVectorRecipe]):
    """A loaded model. Make one with `MultiVectorEmbedder.load`; those with equal settings share one loaded model.

    All methods may be called from any thread, the async ones from any event loop. `rank` and `predict` make it a
    reranker too (`RerankerProtocol`).
    """

    _kind = MULTI_VECTOR

    def __init__(self, config: MultiVectorConfig, loaded: LoadedModel[MultiVectorRecipe]) -> None:
        """Use `MultiVectorEmbedder.load` instead."""
        self.config = config
        self._loaded = loaded
        self._checkpoint = loaded.recipe.checkpoint
        self._prompts = multi_vector_prompts(config, loaded.recipe)
        self._encoder = _encoder(loaded)
        self._path = TextPipeline(loaded, self._encoder)
        super().__init__(config, loaded)

    @classmethod
    def load(cls, model: "str | PathLike[str] | MultiVectorConfig | None" = None, **fields: Any) -> Self:
        """Load a folder, `package:NAME`, a Hub id or a MultiVectorConfig; nothing takes what the config says.

        `fields` are MultiVectorConfig's and win over its other sources.

        Raises:
            ConfigError: an unknown option, a bad value or a bad file of settings.
            ModelNotFoundError: no model of that name is here or on the Hub.
            CheckpointError: a file of the model is missing, broken or contradicts another.
            UnsupportedModelError: the model's files ask for what is not computed here.
            BackendError: the device is not there, or has too little memory.

        Examples:
            >>> with MultiVectorEmbedder.load("lightonai/GTE-ModernColBERT-v1") as multi:  # doctest: +SKIP
            ...     multi.rank("what is MLX?", ["MLX is an array framework.", "Tides follow the moon."], top_k=1)
        """
        return cls._open(MultiVectorConfig, MULTI_VECTOR, model, fields)

    @property
    def dimension(self) -> int:
        """Width of the vectors.

        Examples:
            >>> multi.dimension == multi.encode(["a text"]).dimension
            True
        """
        return self._loaded.dimension

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the vectors (hex); equal on every machine. Computed on first use.

        Examples:
            >>> len(multi.fingerprint)
            64
        """
        return fingerprint(multi_vector_fingerprint_facts(self.config, self._loaded.recipe_of_files))

    def encode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        token_pooling: float | None = None,
        show_progress: bool = False,
    ) -> MultiVectors:
        """Embed texts, each after `prompt`, else the prompt called `prompt_name`, else the checkpoint's default.

        As of documents the skiplist's tokens are left out; no length but `max_seq_length` counts, and nothing is
        filled up. `token_pooling` 2 leaves about half of the vectors, 1 all that the checkpoint leaves.

        Returns:
            A row of vectors for each text, in their order: a text's tokens in theirs. A text may have none.

        Raises:
            TypeError: a bare str, or an item that is no str.
            InputError: an unknown prompt name, a text without tokens, a vector that is not finite.
            QueueFullError: too much waits already. ClosedError: after `close`.

        Examples:
            >>> len(multi.encode(["a text", "another"]))
            2
        """
        call = self._call(self._prompts.choose(prompt_name, prompt), None, token_pooling)
        return self._path.encode(texts, call, show_progress)

    def encode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """Embed queries with the query prompt, filled up as the checkpoint says; they overtake documents.

        Examples:
            >>> multi.encode_query(["what is MLX?"])[0].shape[1] == multi.dimension
            True
        """
        return self._path.encode(texts, self._call(self._prompts.query, "query"), show_progress)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        token_pooling: float | None = None,
        show_progress: bool = False,
        wait: bool = False,
    ) -> MultiVectors:
        """Embed documents with the document prompt. Otherwise as `encode`.

        With `wait` it waits for room in a full queue rather than raise QueueFullError.

        Examples:
            >>> len(multi.encode_document(["MLX is an array framework."]))
            1
        """
        call = replace(self._call(self._prompts.document, "document", token_pooling), wait=wait)
        return self._path.encode(texts, call, show_progress)

    async def aencode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        token_pooling: float | None = None,
        show_progress: bool = False,
    ) -> MultiVectors:
        """`encode` without blocking the event loop; cancelling it takes its texts out of the queue.

        Examples:
            >>> len(asyncio.run(multi.aencode(["a text"])))
            1
        """
        call = self._call(self._prompts.choose(prompt_name, prompt), None, token_pooling)
        return await self._path.aencode(texts, call, show_progress)

    async def aencode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> MultiVectors:
        """`encode_query` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(multi.aencode_query(["what is MLX?"])))
            1
        """
        return await self._path.aencode(texts, self._call(self._prompts.query, "query"), show_progress)

    async def aencode_document(
        self,
        texts: Sequence[str],
        *,
        token_pooling: float | None = None,
        show_progress: bool = False,
        wait: bool = False,
    ) -> MultiVectors:
        """`encode_document` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(multi.aencode_document(["MLX is an array framework."])))
            1
        """
        call = replace(self._call(self._prompts.document, "document", token_pooling), wait=wait)
        return await self._path.aencode(texts, call, show_progress)

    async def aencode_with_usage(
        self,
        texts: Sequence[str],
        side: Side | None = None,
        prompt_name: str | None = None,
        token_pooling: float | None = None,
        on_overlong: Literal["truncate", "error"] | None = None,
        max_tokens: int | None = None,
        *,
        prompt: str | None = None,
        first: int = 0,
        errors: dict[int, AkiDBMLXError] | None = None,
    ) -> tuple[MultiVectors, Usage]:
        """The rows and what they used, for a server: `aencode_query`, `aencode_document` or `aencode` by `side`.

        `on_overlong` wins over the configuration; more than `max_tokens` in all is an InputError. `first` is the
        first text's place, for messages. A text that cannot be embedded is an error, or with `errors` stands there by
        its place and has no vectors.

        Examples:
            >>> rows, usage = asyncio.run(multi.aencode_with_usage(["what is MLX?"], "query"))
            >>> len(rows), usage.tokens > 0
            (1, True)
        """
        call = self._call(self._prompts.choose(prompt_name, prompt, side), side, token_pooling)
        on_overlong = on_overlong or self.config.on_overlong
        call = replace(call, on_overlong=on_overlong, max_tokens=max_tokens, first=first, errors=errors)
        return await self._path.aencode(texts, call, show_progress=False), call.usage

    def encode_stream(
        self,
        texts: Iterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        token_pooling: float | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[MultiVectors]:
        """Embed any iterable in bounded memory: rows of at most `chunk_size` texts, in order.

        `side` takes the query's or the document's way. Less urgent than the other calls; waits for room in the queue
        rather than raise QueueFullError. A text that cannot be embedded ends the stream, or with `on_error` has no
        vectors, after `on_error(place, error)`.

        Examples:
            >>> texts = (f"text {number}" for number in range(25))
            >>> [len(rows) for rows in multi.encode_stream(texts, chunk_size=10)]
            [10, 10, 5]
        """
        call = self._stream_call(prompt_name, prompt, token_pooling, side, on_error)
        return self._path.stream(checked_stream(texts), positive(chunk_size), call, on_error)

    def aencode_stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        token_pooling: float | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> AsyncIterator[MultiVectors]:
        """`encode_stream` for an event loop; `texts` may be an async iterable.

        Examples:
            >>> async def count(texts):
            ...     return sum([len(rows) async for rows in multi.aencode_stream(texts)])
            >>> asyncio.run(count(["a text", "another"]))
            2
        """
        call = self._stream_call(prompt_name, prompt, token_pooling, side, on_error)
        source = checked_async(texts) if isinstance(texts, AsyncIterable) else as_async(checked_stream(texts))
        return self._path.astream(source, positive(chunk_size), call, on_error)

    def similarity(self, queries: TokenRows, documents: TokenRows, *, on_device: bool = False) -> Embeddings:
        """(n, m) float32 scores of queries against documents: MaxSim, or its mean where the checkpoint says so.

        A document without vectors scores −1e9, a query without any 0. Computed on the caller's thread, or `on_device`
        between the batches there: on a GPU worth it for large collections.

        Examples:
            >>> multi.similarity(multi.encode_query(["a question"]), multi.encode_document(["a text", "another"])).shape
            (1, 2)
        """
        some, others = (as_multi_vectors(side, self.dimension) for side in (queries, documents))
        if not on_device:
            return maxsim(some, others, self._checkpoint.similarity)
        self._check_open()
        return device_maxsim(some, others, self._checkpoint.similarity, self._loaded.recipe.device)

    def similarity_pairwise(self, queries: TokenRows, documents: TokenRows) -> Embeddings:
        """(n,) float32 scores of query i against document i, as `similarity`.

        Examples:
            >>> rows = multi.encode_document(["a text", "another"])
            >>> multi.similarity_pairwise(multi.encode_query(["one", "two"]), rows).shape
            (2,)
        """
        some, others = (as_multi_vectors(side, self.dimension) for side in (queries, documents))
        return maxsim_pairs(some, others, self._checkpoint.similarity)

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, *, show_progress: bool = False
    ) -> list[Ranked]:
        """Documents by their score, best first, equal ones in the given order; at most `top_k`.

        Raises:
            InputError: a negative `top_k`; otherwise as `encode_query` and `encode_document`.

        Examples:
            >>> best = multi.rank("what is MLX?", ["MLX is an array framework.", "Tides follow the moon."], top_k=1)
            >>> len(best)
            1
        """
        documents = checked_ranking(query, documents, top_k)
        if not documents:
            return []
        rows = self.encode_query([query]), self._path.encode(documents, self._scored("document"), show_progress)
        return ranking(self.similarity(*rows)[0], top_k)

    async def arank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, *, show_progress: bool = False
    ) -> list[Ranked]:
        """`rank` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(multi.arank("what is MLX?", ["MLX is an array framework."])))
            1
        """
        documents = checked_ranking(query, documents, top_k)
        if not documents:
            return []
        rows = await asyncio.gather(
            self.aencode_query([query]), self._path.aencode(documents, self._scored("document"), show_progress)
        )
        return ranking((await asyncio.to_thread(self.similarity, *rows))[0], top_k)

    def predict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings:
        """Score pairs (query, text): (n,) float32 in their order; each text is embedded once.

        Examples:
            >>> multi.predict([("what is MLX?", "MLX is an array framework.")]).shape
            (1,)
        """
        queries, documents, places = _sides(pairs)
        rows = (
            self._path.encode(queries, self._scored("query"), show_progress),
            self._path.encode(documents, self._scored("document"), show_progress),
        )
        return self._pair_scores(rows, places)

    async def apredict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings:
        """`predict` without blocking the event loop.

        Examples:
            >>> asyncio.run(multi.apredict([("what is MLX?", "MLX is an array framework.")])).shape
            (1,)
        """
        queries, documents, places = _sides(pairs)
        rows = await asyncio.gather(
            self._path.aencode(queries, self._scored("query"), show_progress),
            self._path.aencode(documents, self._scored("document"), show_progress),
        )
        return await asyncio.to_thread(self._pair_scores, rows, places)

    def count_tokens(self, texts: Sequence[str], prompt: str = "", *, side: Side | None = None) -> list[int]:
        """Tokens of each text with prompt and special tokens, after truncation: what the model reads.

        Of queries (`side`) also those that fill them up. Not all of them give a vector: `tokens` tells which.

        Examples:
            >>> len(multi.count_tokens(["what is MLX?"]))
            1
        """
        return [len(encoding) for encoding in self._path.encoder.encode(checked(texts), prompt, 0, side).encodings]

    def tokens(self, texts: Sequence[str], *, side: Side | None = None) -> list[list[str]]:
        """The token of each vector, as the vocabulary spells it, where token pooling merges none.

        Examples:
            >>> len(multi.tokens(["a text"]))
            1
        """
        prompt = self._prompts.choose(side=side)
        encodings = self._path.encoder.encode(checked(texts), prompt, 0, side).encodings
        first = self._checkpoint.head.first  # those before it give no vector
        kept = [one.token_ids[first:] if one.kept is None else one.token_ids[one.kept] for one in encodings]
        return [[str(self._loaded.tokenizer.token(int(number))) for number in ids] for ids in kept]

    def info(self) -> dict[str, Any]:
        """The recipe with the source of each fact, the device, memory and counters; plain values.

        Examples:
            >>> multi.info()["dimension"] == multi.dimension
            True
        """
        from akidb_mlx.effective.describe import describe

        facts = describe(self.config, self._loaded.recipe, MULTI_VECTOR_FACTS)
        return {**facts, "dimension": self.dimension, **self._live()}

    def __repr__(self) -> str:
        return f"MultiVectorEmbedder({self._checkpoint.name!r}, dimension={self.dimension})"

    def _call(self, prompt: str, side: Side | None, token_pooling: float | None = None) -> Call[MultiVectors]:
        self._check_open()
        wanted = self.config.token_pooling if token_pooling is None else checked_factor(token_pooling)
        own = self._checkpoint.token_pooling
        poolings = [own, None if wanted in (None, 1) else TokenPooling(float(wanted or 1))]
        finish = partial(
            _finish,
            dimension=self.dimension,
            poolings=[one for one in poolings if one is not None and (side or "document") in one.tasks],
            dtype=np.dtype(self.config.output_dtype),
        )
        return Call(prompt, finish, urgent=side == "query", side=side, on_overlong=self.config.on_overlong)

    def _scored(self, side: Side) -> Call[MultiVectors]:
        """Texts that are embedded for their scores: somebody waits for them."""
        prompt = self._prompts.query if side == "query" else self._prompts.document
        return replace(self._call(prompt, side), urgent=True, urgent_batches=_URGENT_BATCHES)

    def _stream_call(
        self,
        prompt_name: str | None,
        prompt: str | None,
        token_pooling: float | None,
        side: Side | None,
        on_error: OnError | None,
    ) -> Call[MultiVectors]:
        call = self._call(self._prompts.choose(prompt_name, prompt, side), side, token_pooling)
        # A stream is bulk work, also one of queries.
        return replace(call, urgent=False, errors=None if on_error is None else {})

    def _pair_scores(self, rows: Sequence[MultiVectors], places: Mapping[int, list[tuple[int, int]]]) -> Embeddings:
        """`places`: query → (place among the pairs, document)."""
        queries, documents = rows
        scores = np.empty(sum(map(len, places.values())), np.float32)
        for query, asked in places.items():
            some = MultiVectors.of([documents[document] for _, document in asked], self.dimension)
            scores[[place for place, _ in asked]] = self.similarity(queries[query : query + 1], some)[0]
        return scores


def as_multi_vectors(rows: TokenRows, dimension: int) -> MultiVectors:
    """Rows of vectors from anywhere, each (tokens, `dimension`), in float32 or float16; InputError names the row."""
    if not isinstance(rows, MultiVectors):
        arrays = []
        for place, row in enumerate(rows):
            array = np.asarray(row)
            if array.ndim != 2:
                raise InputError(f"row {place} has shape {array.shape}; vectors of tokens are (tokens, dimension)")
            arrays.append(array if array.dtype in (np.float16, np.float32) else array.astype(np.float32))
        width = next((array.shape[1] for array in arrays if array.shape[1] != dimension), dimension)
        if width != dimension:
            raise InputError(f"a row has vectors of {width} numbers, where this model's have {dimension}")
        rows = MultiVectors.of(arrays, dimension)
    if rows.dimension != dimension:
        raise InputError(f"the vectors have {rows.dimension} numbers, where this model's have {dimension}")
    return rows


def _finish(rows: Rows, dimension: int, poolings: Sequence[TokenPooling], dtype: np.dtype[Any]) -> MultiVectors:
    for pooling in poolings:
        for place, row in enumerate(rows):
            if row is not None:
                rows[place] = pool_tokens(row, pooling.factor, protected=pooling.protected, normalize=pooling.normalize)
    whole = MultiVectors.of(rows, dimension)
    return whole if whole.vectors.dtype == dtype else MultiVectors(whole.vectors.astype(dtype), whole.offsets)


def checked_factor(factor: float) -> float:
    """A factor of token pooling."""
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise TypeError(f"token_pooling must be a number, not {factor!r}")
    if not 1 <= factor < float("inf"):
        raise InputError(f"token_pooling is {factor}; it must be at least 1: about one vector in this many is left")
    return factor


def _sides(
    pairs: Sequence[Pair],
) -> tuple[list[str], list[str], dict[int, list[tuple[int, int]]]]:
    """Each query and each document once, and query → (place among the pairs, document)."""
    queries: dict[str, int] = {}
    documents: dict[str, int] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    for place, (query, document) in enumerate(checked_pairs(pairs)):
        number = queries.setdefault(query, len(queries))
        places.setdefault(number, []).append((place, documents.setdefault(document, len(documents))))
    return list(queries), list(documents), places


def _encoder(loaded: LoadedModel[MultiVectorRecipe]) -> CountingEncoder:
    checkpoint = loaded.recipe.checkpoint

    def encoder(tokenizer: Tokenizer) -> CountingEncoder:
        if checkpoint.chat is None:
            return TextEncoder(tokenizer, include_prompt=True)
        return ChatTextEncoder(ChatTokenizer(tokenizer, ChatRenderer(checkpoint.chat, checkpoint.name, ("user",))))

    sides = {side: encoder(tokenizer) for side, tokenizer in loaded.side_tokenizers.items()}
    plain = encoder(loaded.tokenizer)
    return TokenEncoder(SideEncoder(plain, sides) if sides else plain, token_rules(loaded.recipe, loaded.tokenizer))
