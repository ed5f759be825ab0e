"""The path of a call: encoded in parts, queued, awaited, finished; for callers on threads and in event loops."""

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from akidb_mlx.errors import AkiDBMLXError, BackendError, InputError, QueueFullError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.host_rows import Rows
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.call import Call, Given, OnError
from akidb_mlx.pipeline.encoders import NO_TOKENS, Encoded, Encoder
from akidb_mlx.pipeline.loaded_model import TRUNCATED, AnyLoadedModel
from akidb_mlx.pipeline.progress import Progress, above_bars
from akidb_mlx.pipeline.tokenizer_processes import LEAST_PART
from akidb_mlx.pipeline.waiting import THREADS, Threads, Wait, after, blocking, in_event_loop, iterate, run
from akidb_mlx.pipeline.watching import Watch, watch_of_caller

__all__ = ["TextPipeline", "name_text"]

Input = TypeVar("Input")
_log = logging.getLogger(__name__)
# Texts that are tokenised and queued at a time: the device starts on the first while the next are tokenised.
_PART = {"cpu": 256, "cuda": 512, "metal": 1024}
# The first parts are smaller, doubling from this, so that the device starts early.
_FIRST_PART = 128
# Up to this many characters are tokenised on the caller's own thread (well under a millisecond per 1,000); in an event
# loop fewer: its other requests would wait, and be tokenised one after the other.
_INLINE_CHARACTERS = 20_000
_INLINE_IN_LOOP = 2_000
_STREAM_CHUNKS_IN_FLIGHT = 3
# A chunk of a stream ends early where its texts would take longer than this (seconds), so that the first rows are there
# soon whatever the texts' length; by the engine's measure and about this many characters per token, within bounds.
_CHUNK_S = 4.0
_CHARACTERS_PER_TOKEN = 4
_LEAST_CHUNK_CHARACTERS, _MOST_CHUNK_CHARACTERS = 2**14, 2**20
# A call has at most this share of the queue's tokens waiting, and submits at most a quarter of that at a time.
_SHARE_OF_QUEUE = 2
# How long a stream waits, time after time, for memory that is short (seconds).
_PAUSES_S = (1, 2, 4, 8, 15, 30)


class TextPipeline(Generic[Input]):
    """Takes the calls of one loaded model through encoder, engine and finish."""

    def __init__(self, loaded: AnyLoadedModel, encoder: Encoder[Input], wants: Collection[str] | None = None) -> None:
        """Use `loaded`, which the class above holds; with `wants` the rows of several heads, as mappings."""
        self._loaded = loaded
        self._wants = loaded.wants if wants is None else wants
        self.encoder = encoder
        self._part = _PART[loaded.recipe.device.kind]

    def encode(self, texts: Sequence[Input], call: Call[Given], show_progress: bool) -> Given:
        """All of a call's rows, finished; waits for them."""
        return run(self._encode(texts, call, show_progress, blocking))

    async def aencode(self, texts: Sequence[Input], call: Call[Given], show_progress: bool) -> Given:
        """`encode` for an event loop."""
        return await self._encode(texts, call, show_progress, in_event_loop)

    def stream(
        self, texts: Iterator[Input], chunk_size: int, call: Call[Given], on_error: OnError | None
    ) -> Iterator[Given]:
        """Rows chunk by chunk, a few chunks ahead of who takes them."""
        watch = watch_of_caller()
        return iterate(self._stream(given.as_async(texts), chunk_size, call, on_error, watch, blocking))

    def astream(
        self, texts: AsyncIterator[Input], chunk_size: int, call: Call[Given], on_error: OnError | None
    ) -> AsyncIterator[Given]:
        """`stream` for an event loop."""
        return self._stream(texts, chunk_size, call, on_error, watch_of_caller(), in_event_loop)

    def _threads(self) -> Threads:
        """What tokenises."""
        return Threads(self._loaded.tokenizer.lanes)

    async def _encode(self, texts: Sequence[Input], call: Call[Given], show_progress: bool, wait_for: Wait) -> Given:
        texts = self.encoder.check(texts)
        futures: Queued = []
        watch = watch_of_caller()
        with (
            Progress(len(texts), show_progress, watch) as progress,
            self._threads() as threads,
            self._in_use(),
        ):
            try:
                await self._queue(texts, call.first, call, futures, progress, threads, wait_for, wait=call.wait)
                rows = [await wait_for(future) for future in futures]
                return await wait_for(threads.do(len(texts) > self._part, self._finish, rows, call))
            except BaseException as error:
                _cancel(futures)
                name_text(error, texts, call.first)
                raise

    async def _stream(
        self,
        texts: AsyncIterator[Input],
        chunk_size: int,
        call: Call[Given],
        on_error: OnError | None,
        watch: Watch | None,
        wait_for: Wait,
    ) -> AsyncGenerator[Given, None]:
        chunks: deque[_Chunk[Input]] = deque()
        first = 0
        with self._threads() as threads, self._in_use():
            try:
                more = True
                while more or chunks:
                    some = (
                        await given.chunk(texts, chunk_size, self._chunk_characters(), self.encoder.characters)
                        if more
                        else []
                    )
                    more = bool(some)
                    if some:
                        chunks.append(_Chunk(first, some, watch))
                        await self._queue_chunk(chunks[-1], call, threads, wait_for)
                        first += len(some)
                    if len(chunks) == _STREAM_CHUNKS_IN_FLIGHT or (chunks and not more):
                        parts = await self._await_chunk(chunks[0], call, threads, wait_for)
                        rows = await wait_for(threads.do(len(parts) > 1, self._finish, parts, call))
                        _report(call, chunks[0], on_error)
                        yield rows
                        chunks.popleft()  # not sooner: a chunk that is waited for is cancelled with the others
            except AkiDBMLXError as error:
                for chunk in chunks:
                    name_text(error, chunk.texts, chunk.first)
                raise
            finally:
                _cancel(future for chunk in chunks for future in chunk.futures)

    async def _queue_chunk(self, chunk: "_Chunk[Input]", call: Call[Given], threads: Threads, wait_for: Wait) -> None:
        chunk.futures.clear()
        chunk.begin_anew()
        await self._queue(chunk.texts, chunk.first, call, chunk.futures, chunk, threads, wait_for, wait=True)

    async def _await_chunk(
        self, chunk: "_Chunk[Input]", call: Call[Given], threads: Threads, wait_for: Wait
    ) -> list[Rows]:
        """A chunk's rows. Where the memory does not hold a text for the moment it is tried again, for a minute or so.

        Raises:
            BackendError: the memory did not hold it all the while.
        """
        errors: Mapping[int, AkiDBMLXError] = call.errors or {}
        for pause in (*_PAUSES_S, None):
            try:
                parts = [await wait_for(future) for future in chunk.futures]
                short = next((error for place in chunk.places if _is_short(error := errors.get(place))), None)
                if short is None:
                    return parts
            except BackendError as error:
                if not _is_short(error):
                    raise
                short = error
            if pause is None:
                raise short
            with above_bars():
                _log.warning("%s; trying again in %d s", short, pause)
            _cancel(chunk.futures)
            await wait_for(after(pause))
            for place in chunk.places:
                if call.errors is not None:
                    call.errors.pop(place, None)
            await self._queue_chunk(chunk, call, threads, wait_for)
        raise AssertionError("the last round returns or raises")

    async def _queue(
        self,
        texts: Sequence[Input],
        first: int,
        call: Call[Given],
        futures: "Queued",
        watch: Watch,
        threads: Threads,
        wait_for: Wait,
        *,
        wait: bool,
    ) -> None:
        """Tokenise part by part, the next ones meanwhile, and submit; the first is refused where the queue is full.

        So that one call leaves room for others, not all of it waits at once.
        """
        most = max(1, self._loaded.engine.queue.max_queued_tokens // _SHARE_OF_QUEUE)
        pending: deque[tuple[int, Future[Rows]]] = deque()
        parts = deque(self._parts(len(texts), threads.count))
        inline = _INLINE_CHARACTERS if wait_for is blocking else _INLINE_IN_LOOP
        # Those that another process cuts are waited for: not in an event loop.
        elsewhere = threads.count > THREADS and len(texts) >= LEAST_PART
        much = elsewhere or len(parts) > 1 or sum(map(self.encoder.characters, texts)) > inline
        ahead: deque[tuple[int, Future[Encoded]]] = deque()
        while parts or ahead:
            # The tokenizer works outside Python's lock: while one part is there, another's ids become arrays here.
            while parts and len(ahead) <= threads.count:
                places = parts.popleft()
                some, start = texts[places.start : places.stop], first + places.start
                ahead.append((start, threads.do(much, self._encode_part, some, start, call)))
            start, tokenizing = ahead.popleft()
            part = await wait_for(tokenizing)
            self._account(part, call)
            if part.truncated:
                watch.cut([start + place for place in part.truncated])
            for encodings in _pieces(part.encodings, most // 4):
                tokens = sum(map(len, encodings))
                while pending and sum(waiting for waiting, _ in pending) + tokens > most:
                    await wait_for(pending.popleft()[1])
                while (future := self._submit(encodings, start, call, watch, wait=wait or start > first)) is None:
                    await wait_for(self._loaded.engine.room(tokens, query=call.urgent))
                pending.append((tokens, future))
                futures.append(future)
                start += len(encodings)

    def _in_use(self) -> AbstractContextManager[None]:
        """The model stays while a call lasts."""
        return self._loaded.engine.in_use()

    def _chunk_characters(self) -> int:
        """Characters that a chunk of a stream may have."""
        line = self._loaded.engine.scheduler.speed.line()
        tokens = 0.0 if line is None else _CHUNK_S / line[1] * max(1, self._loaded.engine.cpu_lanes)
        return int(min(max(tokens * _CHARACTERS_PER_TOKEN, _LEAST_CHUNK_CHARACTERS), _MOST_CHUNK_CHARACTERS))

    def _parts(self, count: int, lanes: int) -> list[range]:
        """The places of all texts, part by part; where more than two are cut at once, some for each."""
        most = self._part if lanes <= THREADS else min(self._part, max(_FIRST_PART, -(-count // lanes)))
        parts: list[range] = []
        size = _FIRST_PART if count > most else most
        while not parts or parts[-1].stop < count:
            start = parts[-1].stop if parts else 0
            parts.append(range(start, min(count, start + size)))
            size = min(2 * size, most)
        return parts if count else []

    def _encode_part(self, texts: Sequence[Input], first: int, call: Call[Given]) -> Encoded:
        part = self._encodings_of(texts, first, call)
        if call.task is not None:
            for encoding in part.encodings:
                if encoding is not NO_TOKENS:
                    encoding.task = call.task
        if part.truncated and call.on_overlong == "error":
            self._refuse_overlong(part, first, call)
        return part

    def _account(self, part: Encoded, call: Call[Given]) -> None:
        """Count what is going to be read; on the caller's thread alone, since parts are tokenised on two."""
        call.usage.tokens += _tokens(part)
        call.usage.truncated_texts += len(part.truncated)
        if call.max_tokens is not None and call.usage.tokens > call.max_tokens:
            raise InputError(
                f"the {self.encoder.noun}s have more than {call.max_tokens} tokens together; send fewer at a time"
            )
        if part.truncated:
            self._loaded.engine.stats.truncated_texts += len(part.truncated)
            self._loaded.warn_once(
                f"{len(part.truncated)} of {len(part.encodings)} {self.encoder.noun}s have more than "
                f"{self.encoder.limit(call.side)} tokens and are cut there; later ones are only counted (info())",
                kind=TRUNCATED,
            )

    def _encodings_of(self, texts: Sequence[Input], first: int, call: Call[Given]) -> Encoded:
        try:
            return self.encoder.encode(texts, call.prompt, first, call.side)
        except InputError:
            if call.errors is None:
                raise
        part = Encoded([], [])
        for index, text in enumerate(texts):  # again, one by one: one of them has no tokens
            try:
                one = self.encoder.encode([text], call.prompt, first + index, call.side)
            except InputError as error:
                one, call.errors[first + index] = Encoded([NO_TOKENS], []), error
            part.encodings.extend(one.encodings)
            part.truncated.extend(index for _ in one.truncated)
        return part

    def _refuse_overlong(self, part: Encoded, first: int, call: Call[Given]) -> None:
        limit = self.encoder.limit(call.side)
        for index in part.truncated:
            error = InputError(
                f"{self.encoder.noun} {first + index} has more than {limit} tokens (max_seq_length); split it, "
                'raise max_seq_length, or set on_overlong="truncate"'
            ).at(first + index)
            if call.errors is None:
                raise error
            call.errors[first + index], part.encodings[index] = error, NO_TOKENS
        part.truncated.clear()

    def _submit(
        self, encodings: Sequence[Encoding], first: int, call: Call[Given], watch: Watch, *, wait: bool
    ) -> "Future[Rows] | None":
        """Queue some inputs; None where they must wait for room."""
        engine = self._loaded.engine
        most = call.urgent_batches * engine.scheduler.max_batch_tokens
        try:
            return engine.submit(
                encodings,
                urgent=call.urgent and sum(map(len, encodings)) <= most,
                query=call.urgent,
                first_index=first,
                errors=call.errors,
                wants=self._wants,
                computed=watch.computed,
            )
        except QueueFullError:
            if wait:
                return None
            raise

    def _finish(self, rows: Sequence[Rows], call: Call[Given]) -> Given:
        if not rows:
            return call.finish(self._loaded.form.blank(0))
        whole = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return call.finish(self._own(whole) if len(self._wants) == 1 else whole)

    def _own(self, rows: Rows) -> Rows:
        """This kind's rows of a model with several heads."""
        (head,) = self._wants
        own = self._loaded.form.blank(len(rows))
        for place, row in enumerate(rows):
            if row is not None:
                own[place] = row[head]
        return own


Queued = list["Future[Rows]"]


@dataclass
class _Chunk(Generic[Input]):
    """Inputs of a stream that are computed together."""

    first: int
    texts: Sequence[Input]
    watch: Watch | None = None
    futures: Queued = field(default_factory=list)
    told: int = 0
    """Texts that `watch` was told of."""

    def computed(self, texts: int) -> None:
        """Pass it on."""
        self.told += texts
        if self.watch is not None:
            self.watch.computed(texts)

    def cut(self, places: Sequence[int]) -> None:
        """Pass it on."""
        if self.watch is not None:
            self.watch.cut(places)

    def begin_anew(self) -> None:
        """Its texts are to be computed, whichever were."""
        if self.told:
            self.computed(-self.told)

    @property
    def places(self) -> range:
        """Where its texts stand in the stream."""
        return range(self.first, self.first + len(self.texts))


def _is_short(error: AkiDBMLXError | None) -> bool:
    """Whether it was short of memory for the moment."""
    return isinstance(error, BackendError) and error.retry_after_s is not None


def _report(call: Call[Given], chunk: _Chunk[Any], on_error: OnError | None) -> None:
    """Tell which of a chunk's texts have no row."""
    if call.errors and on_error is not None:
        for place in chunk.places:
            if place in call.errors:
                error = call.errors.pop(place)
                name_text(error, chunk.texts, chunk.first)
                on_error(place, error)


def name_text(error: BaseException, texts: Sequence[Any], first: int = 0) -> None:
    """Say which of these texts (or pairs) an error is about, if it is one of them."""
    if isinstance(error, AkiDBMLXError) and error.place is not None and first <= error.place < first + len(texts):
        text = texts[error.place - first]
        error.about(text if isinstance(text, str) else text[-1])


def _tokens(part: Encoded) -> int:
    return sum(map(len, part.encodings))


def _pieces(encodings: Sequence[Encoding], most: int) -> Iterator[Sequence[Encoding]]:
    """Inputs in pieces of at most `most` tokens, or of one."""
    start = tokens = 0
    for place, encoding in enumerate(encodings):
        if place > start and tokens + len(encoding) > most:
            yield encodings[start:place]
            start, tokens = place, 0
        tokens += len(encoding)
    if start < len(encodings):
        yield encodings[start:]


def _cancel(futures: Iterable["Future[Rows]"]) -> None:
    for future in futures:
        future.cancel()
