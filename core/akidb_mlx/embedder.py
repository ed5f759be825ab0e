"""Embedder, the face of akidb-mlx: texts in, (n, dimension) float32 out."""

import asyncio
import contextlib
import itertools
import logging
import threading
import weakref
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from typing import Any, Literal, ParamSpec, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from akidb_mlx import vectors
from akidb_mlx.config import EmbedderConfig
from akidb_mlx.effective import document_prompt, effective_normalize, effective_prompts, fingerprint_facts
from akidb_mlx.engine import DEVICE_THREAD
from akidb_mlx.errors import AkiDBMLXError, ClosedError, ConfigError, InputError, QueueFullError
from akidb_mlx.fingerprint import fingerprint
from akidb_mlx.loaded import LoadedModel, acquire
from akidb_mlx.tokenizer import Tokenized
from akidb_mlx.vectors import Embeddings

__all__ = ["Embedder", "EmbedderProtocol", "Usage"]

_log = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")
# Texts that are tokenised and queued at a time: the device starts on the first while the next are tokenised.
_PART = {"cpu": 256, "cuda": 1024, "metal": 1024}
# Up to so many characters are tokenised in the event loop's own thread (well under a millisecond each 1,000).
_INLINE_CHARACTERS = 20_000
_STREAM_CHUNKS_IN_FLIGHT = 3
# A chunk of a stream ends early at so many characters, so that long texts do not fill the memory.
_CHUNK_CHARACTERS = 2**20
OnError = Callable[[int, AkiDBMLXError], None]
Side = Literal["query", "document"]
_NO_TOKENS = np.empty(0, np.int32)


@runtime_checkable
class EmbedderProtocol(Protocol):
    """What the adapters need of an embedder; `Embedder` and `testing.FakeEmbedder` satisfy it."""

    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def encode_query(self, texts: Sequence[str]) -> Embeddings: ...  # noqa: D102
    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102
    async def aencode_query(self, texts: Sequence[str]) -> Embeddings: ...  # noqa: D102
    async def aencode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102


@dataclass
class Usage:
    """What one call read; filled in while it runs."""

    tokens: int = 0
    """Tokens that the model read: prompt and special tokens too, what was cut off not."""
    truncated_texts: int = 0


@dataclass(frozen=True)
class _Call:
    """One call's settled options."""

    prompt: str
    dimension: int
    normalize: bool
    urgent: bool = False
    on_overlong: str = "truncate"
    max_tokens: int | None = None
    usage: Usage = field(default_factory=Usage)
    errors: dict[int, AkiDBMLXError] | None = None
    """Why texts have no row, by place, where that is not to end the call."""
    wait: bool = False
    """Whether to wait where the queue is full."""


class Embedder:
    """A loaded model. Make one with `Embedder.load`; embedders with equal settings share one loaded model.

    All methods may be called from any thread, the async ones from any event loop.
    """

    def __init__(self, config: EmbedderConfig, loaded: LoadedModel) -> None:
        """Use `Embedder.load` instead."""
        self.config = config
        self._loaded = loaded
        self._checkpoint = loaded.recipe.checkpoint
        self._part = _PART[loaded.recipe.device.kind]
        self._prompts = effective_prompts(config, loaded.recipe)
        self._normalize = effective_normalize(config, loaded.recipe)
        wanted = self._checkpoint.truncate_dim if config.truncate_dim is None else config.truncate_dim
        self._dimension = self._checked_dimension(wanted, ConfigError)
        self._prompt_lengths: dict[str, int] = {}
        # A thread of its own: closing waits for the device, and the garbage collector may run on its thread.
        self._finalizer = weakref.finalize(self, lambda: threading.Thread(target=loaded.release).start())
        self._finalizer.atexit = False

    @classmethod
    def load(cls, model: "str | PathLike[str] | EmbedderConfig | None" = None, **fields: Any) -> Self:
        """Load a folder, `package:NAME`, a Hub id or an EmbedderConfig; nothing takes what the config says.

        `fields` are EmbedderConfig's and win over its other sources.

        Raises:
            ConfigError, ModelNotFoundError, CheckpointError, UnsupportedModelError, BackendError.
        """
        if isinstance(model, EmbedderConfig):
            config = model.with_changes(**fields) if fields else model
        elif model is None:
            config = EmbedderConfig(**fields)
        else:
            config = EmbedderConfig(model=fspath(model), **fields)
        loaded = acquire(config)
        try:
            return cls(config, loaded)
        except BaseException:
            loaded.release()
            raise

    @property
    def dimension(self) -> int:
        """Width of the vectors, after `truncate_dim`."""
        return self._dimension

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a text that count, special tokens and prompt included."""
        return self._loaded.recipe.max_seq_length

    @property
    def healthy(self) -> bool:
        """Whether the device thread is able to answer."""
        return self._finalizer.alive and DEVICE_THREAD.healthy

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the vectors (hex); equal on every machine. Computed on first use."""
        return fingerprint(fingerprint_facts(self.config, self._loaded.recipe, self.dimension))

    def encode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """Embed texts, each after `prompt`, else the prompt called `prompt_name`, else the checkpoint's default.

        Returns:
            (n, dimension) float32, in the order of `texts`; (0, dimension) for no texts. Lone surrogates
            count as U+FFFD. Texts beyond `max_seq_length` are cut, or refused with `on_overlong="error"`.

        Raises:
            TypeError: a bare str, or an item that is no str.
            InputError: an unknown prompt name, a text without tokens, a vector that is not finite.
            QueueFullError: too much waits already. ClosedError: after `close`.
        """
        call = self._call(self._named_prompt(prompt_name, prompt), truncate_dim, normalize)
        return self._encode(texts, call, show_progress)

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """Embed queries with the query prompt; they overtake documents. Otherwise as `encode`."""
        call = self._call(self._query_prompt(), truncate_dim, normalize, urgent=True)
        return self._encode(texts, call, show_progress)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        wait: bool = False,
    ) -> Embeddings:
        """Embed documents with the document prompt. Otherwise as `encode`.

        With `wait` it waits for room in a full queue rather than raise QueueFullError.
        """
        call = replace(self._call(self._document_prompt(), truncate_dim, normalize), wait=wait)
        return self._encode(texts, call, show_progress)

    async def aencode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """`encode` without blocking the event loop; cancelling it takes its texts out of the queue."""
        call = self._call(self._named_prompt(prompt_name, prompt), truncate_dim, normalize)
        return await self._aencode(texts, call, show_progress)

    async def aencode_query(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """`encode_query` without blocking the event loop."""
        call = self._call(self._query_prompt(), truncate_dim, normalize, urgent=True)
        return await self._aencode(texts, call, show_progress)

    async def aencode_document(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        wait: bool = False,
    ) -> Embeddings:
        """`encode_document` without blocking the event loop."""
        call = replace(self._call(self._document_prompt(), truncate_dim, normalize), wait=wait)
        return await self._aencode(texts, call, show_progress)

    async def aencode_with_usage(
        self,
        texts: Sequence[str],
        side: Side | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        on_overlong: Literal["truncate", "error"] | None = None,
        max_tokens: int | None = None,
    ) -> tuple[Embeddings, Usage]:
        """The rows and what they used, for a server: `aencode_query`, `aencode_document` or `aencode` by `side`.

        `on_overlong` wins over the configuration; more than `max_tokens` in all is an InputError.
        """
        call = self._call(
            self._side_prompt(side, prompt_name),
            truncate_dim,
            normalize,
            urgent=side == "query",
            on_overlong=on_overlong,
            max_tokens=max_tokens,
        )
        return await self._aencode(texts, call, show_progress=False), call.usage

    def encode_stream(
        self,
        texts: Iterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Embeddings]:
        """Embed any iterable in bounded memory: (≤ chunk_size, dimension) arrays in order.

        A few chunks are read ahead; one of long texts ends early. `side` takes the query or the document
        prompt. Waits for room in the queue rather than raise QueueFullError. Closing the iterator early takes
        what is queued out again. A text that cannot be embedded ends the stream, or with `on_error` gives a
        row of NaN, after `on_error(place, error)`.
        """
        call = self._stream_call(prompt_name, prompt, truncate_dim, normalize, side, on_error)
        return self._stream(_checked_stream(texts), _positive(chunk_size), call, on_error)

    def aencode_stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> AsyncIterator[Embeddings]:
        """`encode_stream` for an event loop; `texts` may be an async iterable."""
        call = self._stream_call(prompt_name, prompt, truncate_dim, normalize, side, on_error)
        source = _as_async(texts if isinstance(texts, AsyncIterable) else _checked_stream(texts))
        return self._astream(source, _positive(chunk_size), call, on_error)

    def count_tokens(self, texts: Sequence[str], prompt: str = "") -> list[int]:
        """Tokens of each text with its prompt and special tokens, after truncation: what the model reads."""
        part = self._loaded.tokenizer.tokenize([prompt + text for text in _checked(texts)])
        return [len(ids) for ids in part.token_ids]

    def validate(self, vectors_: ArrayLike, *, unit_length: bool = False) -> Embeddings:
        """Vectors from elsewhere as (n, dimension) float32; InputError names the row that cannot be taken."""
        return vectors.validate(vectors_, self.dimension, unit_length=unit_length)

    def similarity(self, a: ArrayLike, b: ArrayLike) -> Embeddings:
        """(n, m) scores of rows `a` against rows `b`, by the checkpoint's similarity function."""
        return vectors.similarity(a, b, self._checkpoint.similarity)

    def info(self) -> dict[str, Any]:
        """The recipe with the source of each fact, the device, memory and counters; plain values."""
        from akidb_mlx.info import describe

        return {
            **describe(self.config, self._loaded.recipe),
            "dimension": self.dimension,
            "parameter_bytes": self._loaded.parameter_bytes,
            "healthy": self.healthy,
            "memory": DEVICE_THREAD.run(_memory).result(),
            "stats": self.stats(),
        }

    def stats(self) -> dict[str, Any]:
        """The loaded model's counters and what waits for it; plain values, at once."""
        engine = self._loaded.engine
        return {
            **engine.stats.snapshot(),
            "queued_tokens": engine.scheduler.queued_tokens,
            "max_queued_tokens": engine.max_queued_tokens,
        }

    def close(self) -> None:
        """Give the model back; the last embedder that uses it frees its memory. Closing twice is fine."""
        if self._finalizer.detach():
            self._loaded.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Embedder({self._checkpoint.name!r}, dimension={self.dimension})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration; the model is found and loaded again from it."""
        return type(self).load, (self.config,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self).load(self.config)

    # ── prompts and options ──────────────────────────────────────────────────────────────────────────

    def _named_prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return prompt
        name = prompt_name if prompt_name is not None else self._checkpoint.default_prompt_name
        if name is None:
            return ""
        if name not in self._prompts:
            known = ", ".join(map(repr, self._prompts)) or "none"
            raise InputError(f"{self._checkpoint.name} has no prompt called {name!r}; it has {known}")
        return self._prompts[name]

    def _side_prompt(self, side: str | None, prompt_name: str | None) -> str:
        if side is not None and prompt_name is not None:
            raise InputError("a side (query or document) decides the prompt; give that or a prompt name, not both")
        if side is None:
            return self._named_prompt(prompt_name, None)
        return self._query_prompt() if side == "query" else self._document_prompt()

    def _query_prompt(self) -> str:
        return self._prompts.get("query", "")

    def _document_prompt(self) -> str:
        return document_prompt(self.config, self._prompts)

    def _call(
        self,
        prompt: str,
        truncate_dim: int | None,
        normalize: bool | None,
        *,
        urgent: bool = False,
        on_overlong: str | None = None,
        max_tokens: int | None = None,
    ) -> _Call:
        if not self._finalizer.alive:
            raise ClosedError("the embedder is closed; load it again")
        dimension = self.dimension if truncate_dim is None else self._checked_dimension(truncate_dim, InputError)
        normalize = self._normalize if normalize is None else normalize
        return _Call(prompt, dimension, normalize, urgent, on_overlong or self.config.on_overlong, max_tokens)

    def _stream_call(
        self,
        prompt_name: str | None,
        prompt: str | None,
        truncate_dim: int | None,
        normalize: bool | None,
        side: Side | None,
        on_error: OnError | None,
    ) -> _Call:
        if side is not None and prompt is not None:
            raise InputError("a side (query or document) decides the prompt; give that or a prompt, not both")
        said = self._named_prompt(prompt_name, prompt) if side is None else self._side_prompt(side, prompt_name)
        call = self._call(said, truncate_dim, normalize)
        return call if on_error is None else replace(call, errors={})

    def _checked_dimension(self, truncate_dim: int | None, error: type[ConfigError | InputError]) -> int:
        full = self._loaded.dimension
        if truncate_dim is None:
            return full
        if isinstance(truncate_dim, bool) or not isinstance(truncate_dim, int):
            raise TypeError(f"truncate_dim must be a whole number, not {truncate_dim!r}")
        if not 1 <= truncate_dim <= full:
            raise error(f"truncate_dim is {truncate_dim}; {self._checkpoint.name} has 1 to {full} dimensions")
        if truncate_dim < full and not self._checkpoint.matryoshka:
            self._warn_once(
                f"nothing says that {self._checkpoint.name} was trained for truncated vectors (Matryoshka); "
                f"{truncate_dim} of {full} dimensions may find much less"
            )
        return truncate_dim

    def _warn_once(self, message: str, kind: str | None = None) -> None:
        kind = kind or message
        if kind not in self._loaded.warned:
            self._loaded.warned.add(kind)
            _log.warning(message)

    # ── the path of a text ───────────────────────────────────────────────────────────────────────────

    def _encode(self, texts: Sequence[str], call: _Call, show_progress: bool) -> Embeddings:
        texts = _checked(texts)
        futures: Queued = []
        with _Progress(len(texts), show_progress) as progress:
            try:
                self._queue(texts, 0, call, futures, progress, wait=call.wait)
                return self._finish([future.result() for future in futures], call)
            except BaseException:
                _cancel(futures)
                raise

    async def _aencode(self, texts: Sequence[str], call: _Call, show_progress: bool) -> Embeddings:
        texts = _checked(texts)
        futures: Queued = []
        with _Progress(len(texts), show_progress) as progress:
            try:
                await self._aqueue(texts, 0, call, futures, progress, wait=call.wait)
                rows = [await asyncio.wrap_future(future) for future in futures]
                return await _in_thread(len(texts) > self._part, self._finish, rows, call)
            except BaseException:
                _cancel(futures)
                raise

    def _stream(
        self, texts: Iterator[str], chunk_size: int, call: _Call, on_error: OnError | None
    ) -> Iterator[Embeddings]:
        chunks: deque[tuple[int, Queued]] = deque()
        first = 0
        try:
            while chunk := list(_chunk(texts, chunk_size)):
                chunks.append((first, []))
                self._queue(chunk, first, call, chunks[-1][1], _Progress.none, wait=True)
                first += len(chunk)
                if len(chunks) == _STREAM_CHUNKS_IN_FLIGHT:
                    yield self._finish_chunk(*chunks[0], call, on_error)
                    chunks.popleft()  # not sooner: a chunk that is waited for is cancelled with the others
            while chunks:
                yield self._finish_chunk(*chunks[0], call, on_error)
                chunks.popleft()
        finally:
            _cancel(future for _, futures in chunks for future in futures)

    def _finish_chunk(self, first: int, futures: "Queued", call: _Call, on_error: OnError | None) -> Embeddings:
        rows = self._finish([future.result() for future in futures], call)
        _report(call, range(first, first + len(rows)), on_error)
        return rows

    async def _astream(
        self, texts: AsyncIterator[str], chunk_size: int, call: _Call, on_error: OnError | None
    ) -> AsyncIterator[Embeddings]:
        chunks: deque[tuple[int, Queued]] = deque()
        first = 0
        try:
            while chunk := [text async for text in _achunk(texts, chunk_size)]:
                chunks.append((first, []))
                await self._aqueue(chunk, first, call, chunks[-1][1], _Progress.none, wait=True)
                first += len(chunk)
                if len(chunks) == _STREAM_CHUNKS_IN_FLIGHT:
                    yield await self._afinish_chunk(*chunks[0], call, on_error)
                    chunks.popleft()
            while chunks:
                yield await self._afinish_chunk(*chunks[0], call, on_error)
                chunks.popleft()
        finally:
            _cancel(future for _, futures in chunks for future in futures)

    async def _afinish_chunk(self, first: int, futures: "Queued", call: _Call, on_error: OnError | None) -> Embeddings:
        parts = [await asyncio.wrap_future(future) for future in futures]
        rows = await _in_thread(len(parts) > 1, self._finish, parts, call)
        _report(call, range(first, first + len(rows)), on_error)
        return rows

    def _queue(
        self,
        texts: Sequence[str],
        first: int,
        call: _Call,
        futures: "Queued",
        progress: "_Progress",
        *,
        wait: bool,
    ) -> None:
        """Tokenise and submit part by part, adding to `futures`; the first is refused where the queue is full."""
        with contextlib.closing(self._tokenized_parts(texts, first, call)) as parts:
            for start, part in parts:
                while (future := self._submit(part, start, call, wait=wait or start > first)) is None:
                    self._loaded.engine.room(_tokens(part)).result()
                futures.append(progress.watch(future, len(part.token_ids)))

    def _tokenized_parts(
        self, texts: Sequence[str], first: int, call: _Call
    ) -> Generator[tuple[int, Tokenized], None, None]:
        """(place of its first text, part) in order; the next part is tokenised on another thread meanwhile."""
        starts = range(0, len(texts), self._part)
        if len(starts) < 2:
            for start in starts:
                yield first + start, self._tokenize(texts, first + start, call)
            return
        # The tokenizer works outside Python's lock: while one part is there, another's ids become arrays here.
        with ThreadPoolExecutor(2, thread_name_prefix="akidb-mlx-tokenize") as executor:
            ahead: deque[tuple[int, Future[Tokenized]]] = deque()
            try:
                for start in starts:
                    some = texts[start : start + self._part]
                    ahead.append((first + start, self._tokenize_in(executor, some, first + start, call)))
                    if len(ahead) > 2:
                        place, part = ahead.popleft()
                        yield place, part.result()
                for place, part in ahead:
                    yield place, part.result()
            finally:
                executor.shutdown(wait=True, cancel_futures=True)

    def _tokenize_in(self, executor: ThreadPoolExecutor, *part: Any) -> "Future[Tokenized]":
        try:
            return executor.submit(self._tokenize, *part)
        except RuntimeError:  # no thread is to be had: the process is ending
            future: Future[Tokenized] = Future()
            future.set_result(self._tokenize(*part))
            return future

    async def _aqueue(
        self,
        texts: Sequence[str],
        first: int,
        call: _Call,
        futures: "Queued",
        progress: "_Progress",
        *,
        wait: bool,
    ) -> None:
        """`_queue` for an event loop."""
        for start in range(0, len(texts), self._part):
            some = texts[start : start + self._part]
            much = len(texts) > self._part or sum(map(len, some)) > _INLINE_CHARACTERS
            part = await _in_thread(much, self._tokenize, some, first + start, call)
            while (future := self._submit(part, first + start, call, wait=wait or start > 0)) is None:
                await asyncio.wrap_future(self._loaded.engine.room(_tokens(part)))
            futures.append(progress.watch(future, len(part.token_ids)))

    def _tokenize(self, texts: Sequence[str], first: int, call: _Call) -> Tokenized:
        if call.prompt:
            texts = [call.prompt + text for text in texts]
        part = self._tokens_of(texts, first, call)
        if part.truncated and call.on_overlong == "error":
            self._refuse_overlong(part, first, call)
        call.usage.tokens += _tokens(part)
        call.usage.truncated_texts += len(part.truncated)
        if call.max_tokens is not None and call.usage.tokens > call.max_tokens:
            raise InputError(f"the texts have more than {call.max_tokens} tokens together; send fewer at a time")
        if part.truncated:
            limit = self.max_seq_length
            self._loaded.engine.stats.truncated_texts += len(part.truncated)
            self._warn_once(
                f"{len(part.truncated)} of {len(texts)} texts have more than {limit} tokens and are cut there; "
                "later ones are only counted (info())",
                kind="truncated",
            )
        return part

    def _tokens_of(self, texts: Sequence[str], first: int, call: _Call) -> Tokenized:
        tokenizer = self._loaded.tokenizer
        try:
            return tokenizer.tokenize(texts, first)
        except InputError:
            if call.errors is None:
                raise
        part = Tokenized([], [])
        for index, text in enumerate(texts):  # again, one by one: one of them has no tokens
            try:
                one = tokenizer.tokenize([text], first + index)
            except InputError as error:
                one, call.errors[first + index] = Tokenized([_NO_TOKENS], []), error
            part.token_ids.extend(one.token_ids)
            part.truncated.extend(index for _ in one.truncated)
        return part

    def _refuse_overlong(self, part: Tokenized, first: int, call: _Call) -> None:
        for index in part.truncated:
            error = InputError(
                f"text {first + index} has more than {self.max_seq_length} tokens (max_seq_length); split it, "
                'raise max_seq_length, or set on_overlong="truncate"'
            )
            if call.errors is None:
                raise error
            call.errors[first + index], part.token_ids[index] = error, _NO_TOKENS
        part.truncated.clear()

    def _submit(self, part: Tokenized, first: int, call: _Call, *, wait: bool) -> "Future[Embeddings] | None":
        """Queue a part; None where it must wait for room."""
        engine = self._loaded.engine
        small = _tokens(part) <= engine.scheduler.max_batch_tokens
        try:
            return engine.submit(
                part.token_ids,
                urgent=call.urgent and small,
                prompt_length=self._prompt_length(call.prompt),
                first_index=first,
                errors=call.errors,
            )
        except QueueFullError:
            if wait:
                return None
            raise

    def _prompt_length(self, prompt: str) -> int:
        """Leading tokens that pooling leaves out."""
        if not prompt or self._checkpoint.include_prompt:
            return 0
        if prompt not in self._prompt_lengths:
            self._prompt_lengths[prompt] = self._loaded.tokenizer.prompt_length(prompt)
        return self._prompt_lengths[prompt]

    def _finish(self, rows: Sequence[Embeddings], call: _Call) -> Embeddings:
        if not rows:
            return np.empty((0, call.dimension), np.float32)
        together = rows[0] if len(rows) == 1 else np.concatenate(rows)
        layer_norm = self._checkpoint.truncation_layer_norm
        return vectors.finish(together, call.dimension, normalize=call.normalize, layer_norm=layer_norm)


Queued = list["Future[Embeddings]"]


class _Progress:
    """A progress bar over texts, or none."""

    none: "_Progress"

    def __init__(self, total: int, shown: bool) -> None:
        self._bar = None
        self._lock = threading.Lock()  # texts are counted on the device's thread
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="text", desc="Embedding")

    def watch(self, future: "Future[Embeddings]", texts: int) -> "Future[Embeddings]":
        """Count these texts when they are done."""
        if self._bar is not None:
            future.add_done_callback(lambda _: self._count(texts))
        return future

    def _count(self, texts: int) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.update(texts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        with self._lock:
            if self._bar is not None:
                if kind is None:  # answers are counted a moment after they are given
                    self._bar.update(self._bar.total - self._bar.n)
                self._bar.close()
                self._bar = None


_Progress.none = _Progress(0, False)


def _checked(texts: Sequence[str]) -> Sequence[str]:
    """A list of the texts; TypeError for a bare str, for what has no order or length, and for other items."""
    if isinstance(texts, str | bytes | Mapping | Set) or not hasattr(texts, "__len__"):
        raise TypeError(f"texts must be a list of str, not a {type(texts).__name__}; wrap one text in a list")
    texts = list(texts)
    for index, text in enumerate(texts):
        _check_text(text, index)
    return texts


def _check_text(text: object, index: int) -> None:
    if not isinstance(text, str):
        raise TypeError(f"item {index} is a {type(text).__name__}, not a str")


def _checked_stream(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be an iterable of str, not a {type(texts).__name__}")
    return map(_checked_item, itertools.count(), texts)


def _checked_item(index: int, text: str) -> str:
    _check_text(text, index)
    return text


def _positive(chunk_size: int) -> int:
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be a whole number, not {chunk_size!r}")
    if chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}; it must be at least 1")
    return chunk_size


async def _as_async(texts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(texts, AsyncIterable):
        index = 0
        async for text in texts:
            yield _checked_item(index, text)
            index += 1
        return
    for text in texts:
        yield text


def _chunk(texts: Iterator[str], size: int) -> Iterator[str]:
    """The next texts: so many, or fewer where they are long; nothing is read beyond them."""
    characters = 0
    for text in itertools.islice(texts, size):
        yield text
        characters += len(text)
        if characters >= _CHUNK_CHARACTERS:
            return


async def _achunk(texts: AsyncIterator[str], size: int) -> AsyncIterator[str]:
    """`_chunk` of an async iterator."""
    characters = 0
    while size and characters < _CHUNK_CHARACTERS:
        try:
            text = await anext(texts)
        except StopAsyncIteration:
            return
        yield text
        characters += len(text)
        size -= 1


def _report(call: _Call, places: range, on_error: OnError | None) -> None:
    """Tell which of a chunk's texts have no row."""
    if call.errors and on_error is not None:
        for place in places:
            if place in call.errors:
                on_error(place, call.errors.pop(place))


async def _in_thread(much: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work that may take milliseconds leaves the event loop free."""
    return await asyncio.to_thread(work, *args, **kwargs) if much else work(*args, **kwargs)


def _tokens(part: Tokenized) -> int:
    return sum(map(len, part.token_ids))


def _cancel(futures: Iterable["Future[Embeddings]"]) -> None:
    for future in futures:
        future.cancel()


def _memory() -> dict[str, int]:
    import mlx.core as mx

    return {
        "active_bytes": mx.get_active_memory(),
        "cache_bytes": mx.get_cache_memory(),
        "peak_bytes": mx.get_peak_memory(),
    }
