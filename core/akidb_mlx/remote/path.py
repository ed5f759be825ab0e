"""The path of a call to a server: cut into requests, several at a time, awaited, finished."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

from akidb_mlx import wire
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.errors import AkiDBMLXError, InputError
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.call import Call, Given
from akidb_mlx.pipeline.chunk import name_text
from akidb_mlx.pipeline.progress import Progress
from akidb_mlx.pipeline.text_pipeline import TextPipeline
from akidb_mlx.pipeline.waiting import Threads, Wait
from akidb_mlx.pipeline.watching import Watch, watch_of_caller
from akidb_mlx.remote.bodies import Body, bodies
from akidb_mlx.remote.connection import Answer
from akidb_mlx.remote.model import RemoteModel, Rows

__all__ = ["RemoteCall", "RemotePath"]

Input = TypeVar("Input")
# Requests of a call that are under way at a time: the server computes while others travel.
_IN_FLIGHT: Final = 8
# Up to this many characters are written as JSON on the caller's own thread; more go to another.
_INLINE_CHARACTERS: Final = 20_000
_STREAM_CHARACTERS: Final = 2**20


@dataclass(frozen=True)
class RemoteCall(Call[Given]):
    """One call's settled options; `finish` takes the answers' arrays in place of a model's rows."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """What the request says of the kind's own options."""


@dataclass(frozen=True)
class _Inputs(Generic[Input]):
    """What the pipeline wants of an encoder, where tokens are made elsewhere."""

    noun: str
    check: Callable[[Sequence[Input]], Sequence[Input]]
    characters: Callable[[Input], int]


_TEXTS: Any = _Inputs("text", given.checked, len)
_PAIRS: Any = _Inputs("pair", given.checked_pairs, lambda pair: len(pair[0]) + len(pair[1]))


class RemotePath(TextPipeline[Input]):
    """Takes the calls of one remote model to the server and back."""

    def __init__(self, model: RemoteModel) -> None:
        """Ask `model`, which the class above holds."""
        pairs = model.kind.name == "reranker"
        self._model = model
        self._part = 256
        self.encoder = _PAIRS if pairs else _TEXTS

    def encode(self, texts: Sequence[Input], call: Call[Given], show_progress: bool) -> Given:
        """All of a call's rows, finished; a single request is sent on this thread, which saves waking another."""
        texts = self.encoder.check(texts)
        ahead = self._bodies(texts, call.first, call)
        body, more = next(ahead, None), next(ahead, None)
        if body is None or more is not None:
            return super().encode(texts, call, show_progress)
        with Progress(len(texts), show_progress, watch_of_caller()) as progress:
            take = partial(self._take, body, call, progress)
            try:
                return self._finish([self._model.rows(body, wait=call.wait, take=take)], call)
            except AkiDBMLXError as error:
                name_text(error, texts, call.first)
                raise

    def count_tokens(self, texts: Sequence[Input], prompt: str, side: Side | None, *, truncate: bool) -> list[int]:
        """Tokens of each, as the model reads them."""
        texts = self.encoder.check(texts)
        said: dict[str, Any] = {"prompt": prompt, **({} if side is None else {"input_type": side})}
        if not truncate:
            said["truncate"] = False
        counted: list[int] = []
        for body in bodies(texts, None, self._model.head(**said), self._model.limits, self._model.max_seq_length):  # type: ignore[arg-type]
            counted += self._model.tokens(body)
        return counted

    async def _queue(
        self,
        texts: Sequence[Input],
        first: int,
        call: Call[Given],
        futures: list[Any],
        watch: Watch,
        threads: Threads,
        wait_for: Wait,
        *,
        wait: bool,
    ) -> None:
        """Send request after request; the first is refused where the server's queue is full, the others wait."""
        much = sum(map(self.encoder.characters, texts)) > _INLINE_CHARACTERS
        ahead, under_way = self._bodies(texts, first, call), deque[Future[Rows]]()
        while (body := await wait_for(threads.do(much, next, ahead, None))) is not None:
            while len(under_way) >= _IN_FLIGHT:
                await wait_for(under_way.popleft())
            take = partial(self._take, body, call, watch)
            future = self._model.submit(body, wait=wait or body.places.start > first, take=take)
            under_way.append(future)
            futures.append(future)

    def _bodies(self, texts: Sequence[Input], first: int, call: Call[Given]) -> Iterator[Body]:
        assert isinstance(call, RemoteCall)
        said = {
            **call.options,
            "on_overlong": call.on_overlong,
            "partial": call.errors is not None,
            "truncated": True,
            "fingerprint": self._model.fingerprint,
            # The server has a side's prompt by the settings; it may not be said beside the side.
            **({"prompt": call.prompt} if call.side is None else {"input_type": call.side}),
        }
        return bodies(texts, first, self._model.head(**said), self._model.limits, self._model.max_seq_length)  # type: ignore[arg-type]

    def _take(self, body: Body, call: Call[Given], watch: Watch, answer: Answer) -> Rows:
        """An answer's arrays; counts what was read and tells what was cut."""
        arrays, errors = self._model.take(answer)
        if call.errors is not None:
            call.errors.update({place: error.at(place) for place, error in errors.items()})
        call.usage.tokens += int(answer.headers.get(wire.TOKENS, 0))
        if call.max_tokens is not None and call.usage.tokens > call.max_tokens:
            raise InputError(f"the {self.encoder.noun}s have more than {call.max_tokens} tokens together")
        watch.computed(len(body.places))
        if "truncated" in arrays:
            watch.cut(arrays.pop("truncated").tolist())
        if cut := int(answer.headers.get(wire.TRUNCATED, 0)):
            call.usage.truncated_texts += cut
            self._model.warn_once(
                f"{cut} of {len(body.places)} {self.encoder.noun}s have more than "
                f"{answer.headers.get(wire.MAX_SEQ_LENGTH)} tokens and are cut there; later ones are only counted "
                "(info())",
                kind="truncated",
            )
        return arrays

    def _finish(self, rows: Sequence[Any], call: Call[Given]) -> Given:
        return call.finish(rows)  # type: ignore[arg-type]

    def _threads(self, call: Call[Given]) -> Threads:
        return Threads(urgent=call.urgent)

    def _in_use(self) -> AbstractContextManager[None]:
        return nullcontext()  # the server's business

    def _chunk_characters(self) -> int:
        return _STREAM_CHARACTERS
