"""Inputs of a call → encodings, part by part: what is refused, counted, or told of."""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from akidb_mlx.errors import InputError
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.pipeline.call import Call
from akidb_mlx.pipeline.encoders import NO_TOKENS, Encoded, Encoder
from akidb_mlx.pipeline.loaded_model import TRUNCATED, AnyLoadedModel
from akidb_mlx.pipeline.waiting import THREADS

__all__ = ["PartEncoder", "pieces"]

Input = TypeVar("Input")
# Texts that are tokenised and queued at a time: the device starts on the first while the next are tokenised.
_PART = {"cpu": 256, "cuda": 512, "metal": 1024}
# The first parts are smaller, doubling from this, so that the device starts early.
_FIRST_PART = 128


class PartEncoder(Generic[Input]):
    """The encoder of a loaded model, for calls of any size."""

    def __init__(self, loaded: AnyLoadedModel, encoder: Encoder[Input]) -> None:
        """Encode for `loaded`, and count and warn there."""
        self.most = _PART[loaded.recipe.device.kind]
        """Inputs of the largest part."""
        self._loaded, self._encoder = loaded, encoder

    def places(self, count: int, lanes: int) -> list[range]:
        """The places of all texts, part by part; where more than two are cut at once, some for each."""
        most = self.most if lanes <= THREADS else min(self.most, max(_FIRST_PART, -(-count // lanes)))
        parts: list[range] = []
        size = _FIRST_PART if count > most else most
        while not parts or parts[-1].stop < count:
            start = parts[-1].stop if parts else 0
            parts.append(range(start, min(count, start + size)))
            size = min(2 * size, most)
        return parts if count else []

    def encode(self, texts: Sequence[Input], first: int, call: Call[Any]) -> Encoded:
        """Encodings of some inputs, the first of which stands at `first`; what has none is an error, or in `errors`."""
        part = self._encodings_of(texts, first, call)
        if call.task is not None:
            for encoding in part.encodings:
                if encoding is not NO_TOKENS:
                    encoding.task = call.task
        if part.truncated and call.on_overlong == "error":
            self._refuse_overlong(part, first, call)
        return part

    def account(self, part: Encoded, call: Call[Any]) -> None:
        """Count what is going to be read; on the caller's thread alone, since parts are tokenised on two."""
        call.usage.tokens += sum(map(len, part.encodings))
        call.usage.truncated_texts += len(part.truncated)
        if call.max_tokens is not None and call.usage.tokens > call.max_tokens:
            raise InputError(
                f"the {self._encoder.noun}s have more than {call.max_tokens} tokens together; send fewer at a time"
            )
        if part.truncated:
            self._loaded.engine.stats.truncated_texts += len(part.truncated)
            self._loaded.warn_once(
                f"{len(part.truncated)} of {len(part.encodings)} {self._encoder.noun}s have more than "
                f"{self._encoder.limit(call.side)} tokens and are cut there; later ones are only counted (info())",
                kind=TRUNCATED,
            )

    def _encodings_of(self, texts: Sequence[Input], first: int, call: Call[Any]) -> Encoded:
        try:
            return self._encoder.encode(texts, call.prompt, first, call.side)
        except InputError:
            if call.errors is None:
                raise
        part = Encoded([], [])
        for index, text in enumerate(texts):  # again, one by one: one of them has no tokens
            try:
                one = self._encoder.encode([text], call.prompt, first + index, call.side)
            except InputError as error:
                one, call.errors[first + index] = Encoded([NO_TOKENS], []), error
            part.encodings.extend(one.encodings)
            part.truncated.extend(index for _ in one.truncated)
        return part

    def _refuse_overlong(self, part: Encoded, first: int, call: Call[Any]) -> None:
        limit = self._encoder.limit(call.side)
        for index in part.truncated:
            error = InputError(
                f"{self._encoder.noun} {first + index} has more than {limit} tokens (max_seq_length); split it, "
                'raise max_seq_length, or set on_overlong="truncate"'
            ).at(first + index)
            if call.errors is None:
                raise error
            call.errors[first + index], part.encodings[index] = error, NO_TOKENS
        part.truncated.clear()


def pieces(encodings: Sequence[Encoding], most: int) -> Iterator[Sequence[Encoding]]:
    """Inputs in pieces of at most `most` tokens, or of one."""
    start = tokens = 0
    for place, encoding in enumerate(encodings):
        if place > start and tokens + len(encoding) > most:
            yield encodings[start:place]
            start, tokens = place, 0
        tokens += len(encoding)
    if start < len(encodings):
        yield encodings[start:]
