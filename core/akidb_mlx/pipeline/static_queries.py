"""Queries that need no model: the tokens that stand in them, each once, times their weights. Pure NumPy."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.checkpoint.rebuilt_tokenizer import TokenizerKind
from akidb_mlx.checkpoint.static_queries import StaticQueries
from akidb_mlx.errors import InputError
from akidb_mlx.model.encoding import TokenIds
from akidb_mlx.model.host_rows import Rows
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.call import Call, Given, OnError
from akidb_mlx.pipeline.tokenizer import Tokenizer
from akidb_mlx.pipeline.waiting import iterate

__all__ = ["StaticQueryPipeline", "static_query_tokenizer"]

# Up to this many characters are computed in the event loop's own thread.
_INLINE_CHARACTERS = 20_000
_CHUNK_CHARACTERS = 2**20


class Told(Protocol):
    """Who hears of texts that were cut."""

    def __call__(self, cut: int, of: int, limit: int | None, /) -> None: ...


class StaticQueryPipeline:
    """Takes calls from texts to rows, as `TextPipeline` does, on the caller's own thread."""

    def __init__(self, tokenizer: Tokenizer, weights: NDArray[np.float32], told: Told) -> None:
        """A tokenizer that adds no special tokens, and (dimension,) the weight of each of its tokens."""
        self._tokenizer = tokenizer
        self._weights = weights
        self._told = told

    def encode(self, texts: Sequence[str], call: Call[Given]) -> Given:
        """All of a call's rows, finished."""
        return call.finish(self._rows(given.checked(texts), call.first, call))

    async def aencode(self, texts: Sequence[str], call: Call[Given]) -> Given:
        """`encode` for an event loop."""
        texts = given.checked(texts)
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return self.encode(texts, call)
        return await asyncio.to_thread(self.encode, texts, call)

    def stream(
        self, texts: Iterator[str], chunk_size: int, call: Call[Given], on_error: OnError | None
    ) -> Iterator[Given]:
        """Rows chunk by chunk."""
        return iterate(self._stream(given.as_async(texts), chunk_size, call, on_error))

    def astream(
        self, texts: AsyncIterator[str], chunk_size: int, call: Call[Given], on_error: OnError | None
    ) -> AsyncIterator[Given]:
        """`stream` for an event loop."""
        return self._stream(texts, chunk_size, call, on_error)

    def count_tokens(self, texts: Sequence[str], prompt: str) -> list[int]:
        """Tokens of each, after truncation, equal ones too."""
        return [len(ids) for ids in self._token_ids([prompt + text for text in texts], 0)[0]]

    async def _stream(
        self, texts: AsyncIterator[str], chunk_size: int, call: Call[Given], on_error: OnError | None
    ) -> AsyncGenerator[Given, None]:
        first = 0
        while some := await given.chunk(texts, chunk_size, _CHUNK_CHARACTERS, len):
            rows = call.finish(self._rows(some, first, call))
            for place in sorted(call.errors or ()):
                error = (call.errors or {}).pop(place)
                if on_error is not None:
                    on_error(place, error)
            yield rows
            first += len(some)

    def _rows(self, texts: Sequence[str], first: int, call: Call[Given]) -> Rows:
        rows = np.empty(len(texts), object)
        prompted = [call.prompt + text for text in texts]
        try:
            token_ids, cut = self._token_ids(prompted, first)
        except InputError:
            if call.errors is None:
                raise
            token_ids, cut = self._one_by_one(prompted, first, call)
        if call.on_overlong == "error":
            self._refuse_overlong(texts, cut, first, call)
        else:
            call.usage.truncated_texts += len(cut)
            if cut:
                self._told(len(cut), len(texts), self._tokenizer.max_seq_length)
        for place, ids in enumerate(token_ids):
            call.usage.tokens += len(ids)
            if call.errors is None or first + place not in call.errors:
                rows[place] = self._row(ids)
        if call.max_tokens is not None and call.usage.tokens > call.max_tokens:
            raise InputError(f"the texts have more than {call.max_tokens} tokens together; send fewer at a time")
        return rows

    def _row(self, token_ids: TokenIds) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        tokens = np.unique(token_ids)
        weights = self._weights[tokens]
        kept = weights != 0
        return tokens[kept], weights[kept]

    def _token_ids(self, texts: Sequence[str], first: int) -> tuple[list[TokenIds], list[int]]:
        """Of each text, none of an empty one; and which were cut."""
        part = self._tokenizer.tokenize(texts, first)
        return [ids[ids >= 0] for ids in part.token_ids], part.truncated

    def _one_by_one(self, texts: Sequence[str], first: int, call: Call[Given]) -> tuple[list[TokenIds], list[int]]:
        token_ids: list[TokenIds] = []
        cut: list[int] = []
        for place, text in enumerate(texts):
            try:
                (ids,), was_cut = self._token_ids([text], first + place)
            except InputError as error:
                assert call.errors is not None
                call.errors[first + place], ids, was_cut = error, np.empty(0, np.int32), []
            token_ids.append(ids)
            cut.extend(place for _ in was_cut)
        return token_ids, cut

    def _refuse_overlong(self, texts: Sequence[str], cut: Sequence[int], first: int, call: Call[Given]) -> None:
        for place in cut:
            error = InputError(
                f"text {first + place} has more than {self._tokenizer.max_seq_length} tokens (max_seq_length); split "
                'it, raise max_seq_length, or set on_overlong="truncate"'
            )
            error.at(first + place).about(texts[place])
            if call.errors is None:
                raise error
            call.errors[first + place] = error


def static_query_tokenizer(static: StaticQueries, length: int | None, kind: TokenizerKind) -> Tokenizer:
    """It adds no special tokens; one that stands in a text counts as any other."""
    rebuilt = static.rebuilt_tokenizer(kind)
    return Tokenizer(
        static.tokenizer_file,
        length,
        truncation_side=static.truncation_side or rebuilt.truncation_side,
        state=rebuilt.state,
        split_special_tokens=rebuilt.split_special_tokens,
        vocab_size=len(static.weights),
        special_tokens=False,
        zero_if_empty=True,
    )
