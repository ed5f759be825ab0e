"""HybridEmbedder, the class for models that give dense, sparse and multi-vector rows in one pass (BGE-M3)."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, NamedTuple, Self

from akidb_mlx.checkpoint.joint_heads import refuse_without_joint_heads
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.options import ModelOptions
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.effective.fingerprint import combined
from akidb_mlx.embedder import Embedder
from akidb_mlx.model.host_rows import Rows
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.pipeline.call import Call, OnError, Usage
from akidb_mlx.pipeline.face import Face
from akidb_mlx.pipeline.foreign_calls import answer_foreign_keywords, not_constructed
from akidb_mlx.pipeline.inputs import as_async, checked_async, checked_stream, positive
from akidb_mlx.pipeline.text_pipeline import TextPipeline
from akidb_mlx.restoring import MadeOfConfig
from akidb_mlx.sparse_embedder import SparseEmbedder
from akidb_mlx.sparse_rows import SparseRows
from akidb_mlx.vectors import Embeddings

__all__ = ["Hybrid", "HybridEmbedder", "HybridScores", "config_as", "expect_long_texts"]


@dataclass(frozen=True, eq=False)
class Hybrid:
    """The rows of n texts in three forms, from one pass."""

    dense: Embeddings
    """(n, dimension) float32."""
    sparse: SparseRows
    multi: MultiVectors

    def __len__(self) -> int:
        """Its texts."""
        return len(self.dense)


class HybridScores(NamedTuple):
    """(n, m) float32 scores of queries against documents, one way each. How to mix them is the user's choice."""

    dense: Embeddings
    sparse: Embeddings
    multi: Embeddings


class HybridEmbedder(MadeOfConfig[EmbedderConfig]):
    """A loaded model with three heads. Make one with `HybridEmbedder.load`.

    It shares its passes with an `Embedder`, a `SparseEmbedder` and a `MultiVectorEmbedder` of the same settings:
    `dense`, `sparse` and `multi` are these three. All methods may be called from any thread, the async ones from any
    event loop.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse what other libraries' classes are called with."""
        if not (args and isinstance(args[0], Embedder)):
            raise not_constructed(cls, args)
        return super().__new__(cls)

    def __init__(self, dense: Embedder, sparse: SparseEmbedder, multi: MultiVectorEmbedder) -> None:
        """Use `HybridEmbedder.load` instead."""
        self.dense, self.sparse, self.multi = dense, sparse, multi
        self.config = dense.config
        loaded = [face._loaded for face in (dense, sparse, multi)]
        self._heads = [next(iter(model.wants)) for model in loaded]
        self._path = TextPipeline(loaded[0], dense._path.encoder, self._heads)

    @classmethod
    def load(cls, model: "str | PathLike[str] | EmbedderConfig | None" = None, **fields: Any) -> Self:
        """Load a folder, `package:NAME`, a Hub id or an EmbedderConfig; nothing takes what the config says.

        `fields` are EmbedderConfig's and win over its other sources; those that decide dense rows alone (`pooling`,
        `normalize`, `truncate_dim`) leave the other two as they are.

        Raises:
            UnsupportedModelError: a model that has not all three heads.
            ConfigError: an unknown option, a bad value or a bad file of settings.
            ModelNotFoundError: no model of that name is here or on the Hub.
            CheckpointError: a file of the model is missing, broken or contradicts another.
            BackendError: the device is not there, or has too little memory.

        Examples:
            >>> with HybridEmbedder.load("BAAI/bge-m3") as hybrid:  # doctest: +SKIP
            ...     rows = hybrid.encode_document(["a text", "another"])
            ...     rows.dense.shape, len(rows.sparse), len(rows.multi)
            ((2, 1024), 2, 2)
        """
        config = Embedder._settled(EmbedderConfig, model, fields)
        source = resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
        refuse_without_joint_heads(source.path, source.name)
        faces: list[Any] = []
        try:
            faces.append(dense := Embedder.load(config))
            faces.append(SparseEmbedder.load(config_as(SparseConfig, dense.config)))
            faces.append(MultiVectorEmbedder.load(config_as(MultiVectorConfig, dense.config)))
            return cls(*faces)
        except BaseException:
            for face in faces:
                face.close()
            raise

    @property
    def dimension(self) -> int:
        """Width of the dense rows.

        Examples:
            >>> hybrid.dimension == hybrid.encode(["a text"]).dense.shape[1]
            True
        """
        return self.dense.dimension

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a text that count, special tokens and prompt included.

        Examples:
            >>> hybrid.max_seq_length == hybrid.dense.max_seq_length
            True
        """
        return self.dense.max_seq_length

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the rows of all three forms (hex); equal on every machine.

        Examples:
            >>> len(hybrid.fingerprint)
            64
        """
        return combined([face.fingerprint for face in (self.dense, self.sparse, self.multi)])

    @property
    def healthy(self) -> bool:
        """Whether the device threads are able to answer.

        Examples:
            >>> hybrid.healthy
            True
        """
        return self.dense.healthy

    def encode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        show_progress: bool = False,
    ) -> Hybrid:
        """Embed texts in all three forms, each after `prompt`, else the prompt called `prompt_name`, else the default.

        Raises:
            TypeError: a bare str, or an item that is no str.
            InputError: an unknown prompt name, a text without tokens, a row that is not finite.
            QueueFullError: too much waits already. ClosedError: after `close`.

        Examples:
            >>> rows = hybrid.encode(["a text", "another"])
            >>> len(rows.dense), len(rows.sparse), len(rows.multi)
            (2, 2, 2)
        """
        return self._path.encode(texts, self._call(None, prompt_name, prompt), show_progress)

    def encode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> Hybrid:
        """Embed queries with the query prompt; they overtake documents. Otherwise as `encode`.

        Examples:
            >>> len(hybrid.encode_query(["what is MLX?"]).sparse)
            1
        """
        return self._path.encode(texts, self._call("query"), show_progress)

    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False, wait: bool = False) -> Hybrid:
        """Embed documents with the document prompt. Otherwise as `encode`.

        With `wait` it waits for room in a full queue rather than raise QueueFullError.

        Examples:
            >>> len(hybrid.encode_document(["MLX is an array framework."]).multi)
            1
        """
        return self._path.encode(texts, replace(self._call("document"), wait=wait), show_progress)

    async def aencode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        show_progress: bool = False,
    ) -> Hybrid:
        """`encode` without blocking the event loop; cancelling it takes its texts out of the queue.

        Examples:
            >>> len(asyncio.run(hybrid.aencode(["a text"])).dense)
            1
        """
        return await self._path.aencode(texts, self._call(None, prompt_name, prompt), show_progress)

    async def aencode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> Hybrid:
        """`encode_query` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(hybrid.aencode_query(["what is MLX?"])).dense)
            1
        """
        return await self._path.aencode(texts, self._call("query"), show_progress)

    async def aencode_document(
        self, texts: Sequence[str], *, show_progress: bool = False, wait: bool = False
    ) -> Hybrid:
        """`encode_document` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(hybrid.aencode_document(["MLX is an array framework."])).dense)
            1
        """
        return await self._path.aencode(texts, replace(self._call("document"), wait=wait), show_progress)

    async def aencode_with_usage(
        self,
        texts: Sequence[str],
        side: Side | None = None,
        prompt_name: str | None = None,
        on_overlong: str | None = None,
        max_tokens: int | None = None,
    ) -> tuple[Hybrid, Usage]:
        """The rows and what they used, for a server: `aencode_query`, `aencode_document` or `aencode` by `side`.

        Examples:
            >>> rows, usage = asyncio.run(hybrid.aencode_with_usage(["what is MLX?"], "query"))
            >>> len(rows.dense), usage.tokens > 0
            (1, True)
        """
        call = self._call(side, prompt_name)
        call = replace(call, on_overlong=on_overlong or self.config.on_overlong, max_tokens=max_tokens)
        return await self._path.aencode(texts, call, show_progress=False), call.usage

    def encode_stream(
        self,
        texts: Iterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Hybrid]:
        """Embed any iterable in bounded memory: rows of at most `chunk_size` texts, in order.

        Less urgent than the other calls; waits for room in the queue rather than raise QueueFullError. A text that
        cannot be embedded ends the stream, or with `on_error` has a row of NaN, no entries and no vectors, after
        `on_error(place, error)`.

        Examples:
            >>> texts = (f"text {number}" for number in range(25))
            >>> [len(rows.dense) for rows in hybrid.encode_stream(texts, chunk_size=10)]
            [10, 10, 5]
        """
        call = self._stream_call(prompt_name, prompt, side, on_error)
        return self._path.stream(checked_stream(texts), positive(chunk_size), call, on_error)

    def aencode_stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> AsyncIterator[Hybrid]:
        """`encode_stream` for an event loop; `texts` may be an async iterable.

        Examples:
            >>> async def count(texts):
            ...     return sum([len(rows.dense) async for rows in hybrid.aencode_stream(texts)])
            >>> asyncio.run(count(["a text", "another"]))
            2
        """
        call = self._stream_call(prompt_name, prompt, side, on_error)
        source = checked_async(texts) if isinstance(texts, AsyncIterable) else as_async(checked_stream(texts))
        return self._path.astream(source, positive(chunk_size), call, on_error)

    def similarity(self, queries: Hybrid, documents: Hybrid) -> HybridScores:
        """(n, m) scores in each form: cosine, dot product, mean MaxSim. Nothing is mixed: mixes vary.

        Examples:
            >>> rows = hybrid.encode_document(["a text", "another"])
            >>> scores = hybrid.similarity(hybrid.encode_query(["a question"]), rows)
            >>> scores.dense.shape, scores.sparse.shape, scores.multi.shape
            ((1, 2), (1, 2), (1, 2))
        """
        return HybridScores(
            self.dense.similarity(queries.dense, documents.dense),
            self.sparse.similarity(queries.sparse, documents.sparse),
            self.multi.similarity(queries.multi, documents.multi),
        )

    def count_tokens(self, texts: Sequence[str], prompt: str = "", *, truncate: bool = True) -> list[int]:
        """Tokens of each text with prompt and special tokens, after truncation: what the model reads.

        Examples:
            >>> len(hybrid.count_tokens(["what is MLX?"]))
            1
        """
        return self.dense.count_tokens(texts, prompt, truncate=truncate)

    def info(self) -> dict[str, Any]:
        """The dense recipe with the source of each fact, and under `sparse` and `multi_vector` the others' own.

        Examples:
            >>> "sparse" in hybrid.info()
            True
        """
        dense = self.dense.info()
        others = {"sparse": self.sparse.info(), "multi_vector": self.multi.info()}
        own = {
            kind: {name: fact for name, fact in facts.items() if fact != dense.get(name)}
            for kind, facts in others.items()
        }
        return {**dense, "kind": "hybrid", **own}

    def stats(self) -> dict[str, Any]:
        """The counters of the passes that all three share; plain values, at once.

        Examples:
            >>> isinstance(hybrid.stats(), dict)
            True
        """
        return self.dense.stats()

    def keep_for(self, seconds: float | None) -> None:
        """Free the weights after this many seconds without a call, in place of `keep_alive`; None: never.

        Examples:
            >>> hybrid.keep_for(300)  # seconds
            >>> hybrid.keep_for(None)
        """
        for face in (self.dense, self.sparse, self.multi):
            face.keep_for(seconds)

    def close(self) -> None:
        """Give the model back; the last one that uses it frees its memory. Closing twice is fine.

        Examples:
            >>> hybrid.close()  # doctest: +SKIP
        """
        for face in (self.dense, self.sparse, self.multi):
            face.close()

    def __repr__(self) -> str:
        return f"HybridEmbedder({self.config.model!r}, dimension={self.dimension})"

    def _call(self, side: Side | None, prompt_name: str | None = None, prompt: str | None = None) -> Call[Hybrid]:
        """One call for all: the three calls differ in how they finish rows."""
        chosen = self.dense._prompts.choose(prompt_name, prompt, side)
        dense = self.dense._call(chosen, None, None, side)
        finishes = [dense.finish, self.sparse._call(chosen, None, side).finish, self.multi._call(chosen, side).finish]
        blanks = [face._loaded.form.blank for face in (self.dense, self.sparse, self.multi)]

        def finish(rows: Rows) -> Hybrid:
            parts: list[Any] = []
            for head, blank, finish_own in zip(self._heads, blanks, finishes, strict=True):
                own = blank(len(rows))
                for place, row in enumerate(rows):
                    if row is not None:
                        own[place] = row[head]
                parts.append(finish_own(own))
            return Hybrid(*parts)

        return Call(chosen, finish, dense.urgent, side=side, on_overlong=dense.on_overlong)

    def _stream_call(
        self, prompt_name: str | None, prompt: str | None, side: Side | None, on_error: OnError | None
    ) -> Call[Hybrid]:
        call = self._call(side, prompt_name, prompt)
        return replace(call, urgent=False, errors=None if on_error is None else {})


def config_as(kind: type[ModelConfig], config: EmbedderConfig) -> Any:
    """Another kind's configuration with the same settings, but for those that are dense rows' own."""
    shared = (*ModelOptions.model_fields, "model", "query_prompt", "document_prompt")
    return kind.exact(**{name: getattr(config, name) for name in shared})


def expect_long_texts(model: Face[Any, Any] | HybridEmbedder) -> None:
    """Do not warn of texts that are cut: what is sent from now on is longer on purpose."""
    for face in (model.dense, model.sparse, model.multi) if isinstance(model, HybridEmbedder) else (model,):
        if isinstance(face, Face):  # not a stand-in, which cuts nothing
            face._loaded.expect_long_texts()


answer_foreign_keywords(HybridEmbedder)
