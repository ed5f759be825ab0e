"""Requests at random against one model: good and bad, cancelled, timed out, refused, closed midway.

Each request must end within a time as its kind allows, and each row that is given must be the one of a serial run
before. What is asked is drawn with a seed; what meets what is up to the threads.
"""

import asyncio
import concurrent.futures
import itertools
import logging
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from akidb_mlx import Embedder
from akidb_mlx.bench import WORDS
from akidb_mlx.errors import ClosedError, InputError, QueueFullError

TOLERANCE = 2e-6
THREADS = 8
LOOPS, TASKS_A_LOOP = 2, 8
POOL = 300
SIDES = ("plain", "query", "document")
# Shares of the requests; those of every kind but "close" are drawn for threads and event loops alike.
KINDS = {"rows": 44, "stream": 10, "waiting": 8, "cancelled": 14, "timed out": 8, "bad": 15, "close": 1}
Cancelled = (asyncio.CancelledError, concurrent.futures.CancelledError)


@dataclass(frozen=True)
class Request:
    """What one request asks."""

    kind: str
    side: str
    places: list[int]
    """Its texts, by place in the pool."""
    delay_s: float
    """When it is cancelled or given up."""
    may_close: bool
    """Whether it goes to the embedder that is closed now and then."""
    variant: int
    """Which bad item, or which way of cancelling."""
    chunk_size: int


def request(seed: int, number: int) -> Request:
    """The request of this number: 1 to 64 texts, more often few."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    places = rng.choices(range(POOL), k=int(64.99 ** rng.random()))
    delay_s = 10 ** rng.uniform(-4, -1)
    return Request(
        kind, rng.choice(SIDES), places, delay_s, rng.random() < 0.2, rng.randrange(6), rng.choice((1, 7, 100))
    )


def pool_of_texts(embedder: Embedder) -> tuple[list[str], dict[str, np.ndarray]]:
    """Texts, and their rows by side, each text embedded alone; no two rows are alike."""
    rng = random.Random(0)
    candidates = ["", "tea 🍵", "Straße, Ελλάδα, 東京"]
    candidates += [" ".join(rng.choices(WORDS, k=rng.choice((1, 3, 10, 40)))) for _ in range(4 * POOL)]
    texts: list[str] = []
    rows: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    known = np.empty((0, embedder.dimension), np.float32)
    for text in dict.fromkeys(candidates):
        of_text = np.concatenate([ask(embedder, side, [text]) for side in SIDES])
        apart = np.abs(known[:, None] - of_text).max(axis=2).min(initial=1)
        if min(apart, *(np.abs(of_text[i] - of_text[i - 1]).max() for i in range(3))) < 100 * TOLERANCE:
            continue
        known = np.concatenate([known, of_text])
        texts.append(text)
        for side, row in zip(SIDES, of_text, strict=True):
            rows[side].append(row)
        if len(texts) == POOL:
            return texts, {side: np.stack(of_side) for side, of_side in rows.items()}
    raise SystemExit(f"of {len(candidates)} texts only {len(texts)} have rows of their own; choose another model")


def ask(embedder: Embedder, side: str, texts: Any, **options: Any) -> np.ndarray:
    """Rows, for callers on threads."""
    encode = {"plain": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
    return encode[side](texts, **options)


async def aask(embedder: Embedder, side: str, texts: Any, **options: Any) -> np.ndarray:
    """Rows, for event loops."""
    encode = {"plain": embedder.aencode, "query": embedder.aencode_query, "document": embedder.aencode_document}
    return await encode[side](texts, **options)


class Run:
    """The embedders, what is expected, and how the requests ended."""

    def __init__(self, model: str, seed: int, count: int, limit_s: float) -> None:
        """Load, and embed the pool serially."""
        self.seed, self.limit_s, self.count = seed, limit_s, count
        self.prompts = {"query_prompt": "query: ", "document_prompt": "passage: "}
        with Embedder.load(model, **self.prompts) as serial:
            self.texts, self.expected = pool_of_texts(serial)
            tokens = sum(serial.count_tokens(self.texts)) // POOL
        limits = {"max_queued_tokens": 300 * tokens, "max_batch_tokens": 32 * tokens, **self.prompts}
        self.steady = Embedder.load(model, **limits)
        self.strict = Embedder.load(model, **limits, on_overlong="error")
        self.overlong = " ".join(WORDS * (1 + (self.steady.max_seq_length or 0) // len(WORDS)))
        # Another limit, hence a model of its own: closing it ends its engine.
        self.load_closing = lambda: Embedder.load(model, **{**limits, "max_queued_tokens": 200 * tokens})
        self.closing = self.load_closing()
        self.closing_lock = threading.Lock()
        self.numbers = iter(range(count))
        self.numbers_lock = threading.Lock()
        self.began: dict[int, float] = {}
        self.ends: dict[int, str] = {}
        self.differences: list[float] = []
        self.stop = False

    def next(self) -> tuple[int, Request] | None:
        """The next request, which counts as begun."""
        with self.numbers_lock:
            number = None if self.stop else next(self.numbers, None)
            if number is None:
                return None
            self.began[number] = time.monotonic()
        return number, request(self.seed, number)

    def embedder_for(self, asked: Request) -> Embedder:
        return self.closing if asked.may_close else self.steady

    def bad_texts(self, asked: Request) -> tuple[Embedder, Any]:
        """An embedder and texts that it refuses."""
        texts: list[Any] = [self.texts[place] for place in asked.places]
        middle = len(texts) // 2
        if asked.variant < 4:
            texts.insert(middle, (None, b"bytes", 7, [101, 102])[asked.variant])
        elif asked.variant == 4 or not self.steady.max_seq_length:
            texts = self.texts[0] if asked.variant == 4 else [7]  # type: ignore[assignment]  # a bare str
        else:
            texts.insert(middle, self.overlong)
            return self.strict, texts
        return self.embedder_for(asked), texts

    def end(self, number: int, asked: Request, was_open: bool, result: Any) -> None:
        """Note how a request ended; what its kind does not allow is written out."""
        kind = asked.kind
        if isinstance(result, np.ndarray) and kind != "bad":
            expected = self.expected[asked.side][asked.places]
            difference = float(np.abs(result - expected).max()) if result.shape == expected.shape else np.inf
            self.differences.append(difference)
            self.ends[number] = "answered" if difference <= TOLERANCE else "wrong"
        elif kind == "bad" and isinstance(result, TypeError | InputError):
            self.ends[number] = "bad items"
        elif kind == "cancelled" and (result is None or isinstance(result, Cancelled)):
            self.ends[number] = "cancelled"
        elif kind == "timed out" and isinstance(result, TimeoutError):
            self.ends[number] = "timed out"
        elif kind not in ("waiting", "stream") and isinstance(result, QueueFullError):
            self.ends[number] = "queue full"
        elif isinstance(result, ClosedError) and asked.may_close:
            self.ends[number] = "closed while it ran" if was_open else "closed before"
        else:
            self.ends[number] = "unexpected"
            print(f"request {number}, {asked}:", file=sys.stderr)
            if isinstance(result, BaseException):
                traceback.print_exception(result)

    # ── from threads ─────────────────────────────────────────────────────────────────────────────────

    def on_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        """Requests one after the other; those that are cancelled or timed run in `loop`."""
        while (drawn := self.next()) is not None:
            number, asked = drawn
            if asked.kind == "close":
                self.close_and_load()
                self.ends[number] = "closings"
                continue
            was_open = self.embedder_for(asked).healthy
            try:
                result = self.rows_on_thread(asked, loop)
            except BaseException as error:
                result = error
            self.end(number, asked, was_open, result)

    def rows_on_thread(self, asked: Request, loop: asyncio.AbstractEventLoop) -> np.ndarray | None:
        texts, embedder = [self.texts[place] for place in asked.places], self.embedder_for(asked)
        if asked.kind == "bad":
            embedder, texts = self.bad_texts(asked)
        if asked.kind == "waiting":
            return embedder.encode_document(texts, wait=True) if asked.side == "document" else self.stream(asked)
        if asked.kind == "stream":
            return self.stream(asked)
        if asked.kind == "cancelled" and asked.variant < 2:
            stream = iter(embedder.encode_stream(itertools.cycle(texts), asked.chunk_size))
            for _ in range(asked.variant + 1):
                next(stream)
            stream.close()  # type: ignore[attr-defined]  # it is a generator
            return None
        if asked.kind in ("cancelled", "timed out"):
            work: Coroutine[Any, Any, np.ndarray] = aask(embedder, asked.side, texts)
            if asked.kind == "timed out":
                work = asyncio.wait_for(work, asked.delay_s)
            future = asyncio.run_coroutine_threadsafe(work, loop)
            if asked.kind == "cancelled":
                time.sleep(asked.delay_s)
                future.cancel()
            return future.result()
        return ask(embedder, asked.side, texts)

    def stream(self, asked: Request) -> np.ndarray:
        texts = (self.texts[place] for place in asked.places)
        side: Any = None if asked.side == "plain" else asked.side
        return np.concatenate(list(self.embedder_for(asked).encode_stream(texts, asked.chunk_size, side=side)))

    def close_and_load(self) -> None:
        """Close the one embedder while its requests run; the next ones find another."""
        with self.closing_lock:
            self.closing.close()
            self.closing = self.load_closing()

    # ── from event loops ─────────────────────────────────────────────────────────────────────────────

    async def in_loop(self) -> None:
        """Requests one after the other, in a task."""
        while (drawn := self.next()) is not None:
            number, asked = drawn
            if asked.kind == "close":
                await asyncio.to_thread(self.close_and_load)
                self.ends[number] = "closings"
                continue
            was_open = self.embedder_for(asked).healthy
            task = asyncio.ensure_future(self.rows_in_loop(asked))
            if asked.kind == "cancelled":
                await asyncio.sleep(asked.delay_s)
                task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            self.end(number, asked, was_open, results[0])

    async def rows_in_loop(self, asked: Request) -> np.ndarray:
        texts, embedder = [self.texts[place] for place in asked.places], self.embedder_for(asked)
        if asked.kind == "bad":
            embedder, texts = self.bad_texts(asked)
        if asked.kind == "timed out":
            return await asyncio.wait_for(aask(embedder, asked.side, texts), asked.delay_s)
        if asked.kind == "waiting" and asked.side == "document":
            return await embedder.aencode_document(texts, wait=True)
        if asked.kind in ("stream", "waiting") or (asked.kind == "cancelled" and asked.variant < 2):
            side: Any = None if asked.side == "plain" else asked.side
            chunks = embedder.aencode_stream(texts, asked.chunk_size, side=side)
            return np.concatenate([rows async for rows in chunks])
        return await aask(embedder, asked.side, texts)

    # ── all at once ──────────────────────────────────────────────────────────────────────────────────

    def hanging(self) -> list[int]:
        """Requests that began too long ago."""
        now = time.monotonic()
        with self.numbers_lock:
            began = self.began.copy().items()
        return [number for number, at in began if number not in self.ends and now - at > self.limit_s]

    def run(self) -> None:
        """All requests, until they have ended or one hangs."""
        loops = [asyncio.new_event_loop() for _ in range(LOOPS)]
        ended = [threading.Event() for _ in loops]

        async def tasks() -> None:
            await asyncio.gather(*(self.in_loop() for _ in range(TASKS_A_LOOP)))

        def run_loop(loop: asyncio.AbstractEventLoop, done: threading.Event) -> None:
            loop.run_until_complete(tasks())
            done.set()
            loop.run_forever()  # threads still send it what they cancel

        for loop, done in zip(loops, ended, strict=True):
            threading.Thread(target=run_loop, args=(loop, done), daemon=True).start()
        threads = [
            threading.Thread(target=self.on_thread, args=(loops[number % LOOPS],), daemon=True)
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or not all(done.is_set() for done in ended):
            time.sleep(0.05)
            if self.hanging():
                self.stop = True
                time.sleep(min(5, self.limit_s))  # what else runs may end
                return
        for loop in loops:
            loop.call_soon_threadsafe(loop.stop)

    def left_in_queue(self) -> int:
        """Tokens that still wait, once what was cancelled had time to leave."""
        until = time.monotonic() + 5
        while (left := self.steady.stats()["queued_tokens"]) and time.monotonic() < until:
            time.sleep(0.01)
        return left


def random_requests(model: str, seed: int, count: int, limit_s: float = 30) -> Iterator[tuple[str, str, str]]:
    """Rows of the table; ends the process with status 1 where a request was lost, answered wrongly or hangs."""
    logging.getLogger("akidb_mlx").setLevel(logging.ERROR)  # each model warns once of texts that are cut
    run = Run(model, seed, count, limit_s)
    began = time.perf_counter()
    run.run()
    seconds = time.perf_counter() - began
    hanging = len(run.hanging())
    left = 0 if hanging else run.left_in_queue()
    ends = Counter(run.ends.values())
    lost = len(run.began) - len(run.ends) - hanging
    refused = ("queue full", "closed while it ran", "closed before", "bad items")
    sent = f"{len(run.began):,} requests at random, seed {seed}"
    yield f"{sent}: answered", f"{ends['answered']:,} of {len(run.began):,} in {seconds:.1f} s", ""
    yield "… wrong (further than 2e-6 from the serial run)", str(ends["wrong"]), "0"
    yield "… largest difference", f"{max(run.differences, default=np.nan):.1e}", "2e-6"
    yield "… lost (no end, or an error that was not asked for)", str(lost + ends["unexpected"]), "0"
    yield f"… hanging (not done within {limit_s:g} s)", str(hanging), "0"
    yield "… tokens left in the queue", str(left), "0"
    yield "… refused: " + " / ".join(refused), " / ".join(f"{ends[name]:,}" for name in refused), ""
    yield "… cancelled / timed out", f"{ends['cancelled']:,} / {ends['timed out']:,}", ""
    yield "… closed midway and loaded again", f"{ends['closings']:,} times", ""
    if ends["wrong"] or ends["unexpected"] or lost or hanging or left or len(run.began) < count:
        print("a request was lost, wrong or hangs", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # threads that hang would keep the process
    for embedder in (run.steady, run.strict, run.closing):
        embedder.close()
