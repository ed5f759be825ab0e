"""The path of a call: encoded in parts, queued, awaited, finished; for callers on threads and in event loops."""

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import numpy as np

from akidb_mlx.errors import AkiDBMLXError, BackendError, QueueFullError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.host_rows import Rows
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.call import Call, Given, OnError
from akidb_mlx.pipeline.chunk import Chunk, Queued, name_text, report
from akidb_mlx.pipeline.encoders import Encoded, Encoder
from akidb_mlx.pipeline.loaded_model import AnyLoadedModel
from akidb_mlx.pipeline.parts import PartEncoder, pieces
from akidb_mlx.pipeline.progress import Progress, above_bars
from akidb_mlx.pipeline.tokenizer_processes import LEAST_PART
from akidb_mlx.pipeline.waiting import Threads, Wait, after, blocking, in_event_loop, iterate, run
from akidb_mlx.pipeline.watching import Watch, watch_of_caller

__all__ = ["TextPipeline"]

Input = TypeVar("Input")
_log = logging.getLogger(__name__)
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
        self._parts = PartEncoder(loaded, encoder)
        self._part = self._parts.most

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

    def _threads(self, call: Call[Given]) -> Threads:
        """What tokenises."""
        return Threads(self._loaded.tokenizer.lanes, urgent=call.urgent)

    async def _encode(self, texts: Sequence[Input], call: Call[Given], show_progress: bool, wait_for: Wait) -> Given:
        texts = self.encoder.check(texts)
        futures: Queued = []
        watch = watch_of_caller()
        with (
            Progress(len(texts), show_progress, watch) as progress,
            self._threads(call) as threads,
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
        chunks: deque[Chunk[Input]] = deque()
        first = 0
        with self._threads(call) as threads, self._in_use():
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
                        chunks.append(Chunk(first, some, watch))
                        await self._queue_chunk(chunks[-1], call, threads, wait_for)
                        first += len(some)
                    if len(chunks) == _STREAM_CHUNKS_IN_FLIGHT or (chunks and not more):
                        parts = await self._await_chunk(chunks[0], call, threads, wait_for)
                        rows = await wait_for(threads.do(len(parts) > 1, self._finish, parts, call))
                        report(call, chunks[0], on_error)
                        yield rows
                        chunks.popleft()  # not sooner: a chunk that is waited for is cancelled with the others
            except AkiDBMLXError as error:
                for chunk in chunks:
                    name_text(error, chunk.texts, chunk.first)
                raise
            finally:
                _cancel(future for chunk in chunks for future in chunk.futures)

    async def _queue_chunk(self, chunk: "Chunk[Input]", call: Call[Given], threads: Threads, wait_for: Wait) -> None:
        chunk.futures.clear()
        chunk.begin_anew()
        await self._queue(chunk.texts, chunk.first, call, chunk.futures, chunk, threads, wait_for, wait=True)

    async def _await_chunk(
        self, chunk: "Chunk[Input]", call: Call[Given], threads: Threads, wait_for: Wait
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
        parts = deque(self._parts.places(len(texts), threads.count))
        inline = _INLINE_CHARACTERS if wait_for is blocking else _INLINE_IN_LOOP
        # Those that another process cuts are waited for: not in an event loop.
        elsewhere = self._loaded.tokenizer.processes is not None and len(texts) >= LEAST_PART
        much = elsewhere or len(parts) > 1 or sum(map(self.encoder.characters, texts)) > inline
        ahead: deque[tuple[int, Future[Encoded]]] = deque()
        while parts or ahead:
            # The tokenizer works outside Python's lock: while one part is there, another's ids become arrays here.
            while parts and len(ahead) <= threads.count:
                places = parts.popleft()
                some, start = texts[places.start : places.stop], first + places.start
                ahead.append((start, threads.do(much, self._parts.encode, some, start, call)))
            start, tokenizing = ahead.popleft()
            part = await wait_for(tokenizing)
            self._parts.account(part, call)
            if part.truncated:
                watch.cut([start + place for place in part.truncated])
            for encodings in pieces(part.encodings, most // 4):
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


def _is_short(error: AkiDBMLXError | None) -> bool:
    """Whether it was short of memory for the moment."""
    return isinstance(error, BackendError) and error.retry_after_s is not None


def _cancel(futures: Iterable["Future[Rows]"]) -> None:
    for future in futures:
        future.cancel()
