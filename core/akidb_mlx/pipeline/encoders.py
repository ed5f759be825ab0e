"""What a call passes → encodings for the model, in general and for texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.chat_tokenizer import ChatTokenizer
from akidb_mlx.pipeline.tokenizer import Tokenizer

__all__ = ["NO_TOKENS", "ChatTextEncoder", "CountingEncoder", "Encoded", "Encoder", "SideEncoder", "TextEncoder"]

Input = TypeVar("Input")

NO_TOKENS = Encoding(np.empty(0, np.int32))
"""Of an input that has no row."""


@dataclass(frozen=True)
class Encoded:
    """Some inputs as rows for the model, and which of them were cut."""

    encodings: list[Encoding]
    truncated: list[int]
    """Indices of the inputs that were longer than the model takes."""


class Encoder(Protocol[Input]):
    """One kind of input; all but `check` may run on several threads at once."""

    noun: str
    """What messages call one input."""

    def limit(self, side: Side | None) -> int | None:
        """Tokens that an input may have."""

    def check(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """A list of the inputs; TypeError names what is none."""

    def characters(self, item: Input) -> int:
        """How long one is."""

    def encode(self, inputs: Sequence[Input], prompt: str, first_index: int = 0, side: Side | None = None) -> Encoded:
        """Encodings in order; InputError where one has no tokens. `first_index` is the first one's place in a call."""


class CountingEncoder(Encoder[str], Protocol):
    """An encoder of texts that also says how long they are."""

    def count(self, inputs: Sequence[str], prompt: str, side: Side | None = None) -> list[int]:
        """Tokens of each text with all that is put around it, also of what `encode` cuts off."""


class _Texts:
    """What both ways have in common."""

    noun = "text"

    def __init__(self, tokenizer: Tokenizer | ChatTokenizer) -> None:
        self._limit = tokenizer.max_seq_length

    def limit(self, _: Side | None) -> int | None:
        """Tokens that a text may have."""
        return self._limit

    def check(self, inputs: Sequence[str]) -> Sequence[str]:
        """A list of the texts; TypeError names what is none."""
        return given.checked(inputs)

    def characters(self, item: str) -> int:
        """How long one is."""
        return len(item)


class TextEncoder(_Texts):
    """Texts, each after the prompt; pooling may leave the prompt's tokens out."""

    def __init__(self, tokenizer: Tokenizer, *, include_prompt: bool, measure: Tokenizer | None = None) -> None:
        """Encode with this tokenizer; `measure` counts a prompt's tokens, where another limit holds for that."""
        super().__init__(tokenizer)
        self._tokenizer = tokenizer
        self._measure = measure or tokenizer
        self._include_prompt = include_prompt
        self._prompt_lengths: dict[str, int] = {}

    def encode(self, inputs: Sequence[str], prompt: str, first_index: int = 0, side: Side | None = None) -> Encoded:
        """Encodings in order; InputError where a text has no tokens."""
        texts = [prompt + text for text in inputs] if prompt else inputs
        part = self._tokenizer.tokenize(texts, first_index)
        left_out = self._prompt_length(prompt)
        return Encoded([Encoding(ids, left_out) for ids in part.token_ids], part.truncated)

    def count(self, inputs: Sequence[str], prompt: str, side: Side | None = None) -> list[int]:
        """Tokens of each text with all that is put around it, also of what `encode` cuts off."""
        return self._tokenizer.count([prompt + text for text in inputs])

    def _prompt_length(self, prompt: str) -> int:
        """Leading tokens that pooling leaves out."""
        if not prompt or self._include_prompt:
            return 0
        if prompt not in self._prompt_lengths:
            self._prompt_lengths[prompt] = self._measure.prompt_length(prompt)
        return self._prompt_lengths[prompt]


class ChatTextEncoder(_Texts):
    """Texts as messages of a chat; the prompt is one of its own, which pooling always takes in, as in the reference."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        """Encode with this tokenizer."""
        super().__init__(tokenizer)
        self._tokenizer = tokenizer

    def encode(self, inputs: Sequence[str], prompt: str, first_index: int = 0, side: Side | None = None) -> Encoded:
        """Encodings in order; InputError where a text has no tokens."""
        part = self._tokenizer.tokenize([(text,) for text in inputs], prompt, first_index, side)
        return Encoded([Encoding(ids) for ids in part.token_ids], part.truncated)

    def count(self, inputs: Sequence[str], prompt: str, side: Side | None = None) -> list[int]:
        """Tokens of each text with all that is put around it, also of what `encode` cuts off."""
        return self._tokenizer.count([(text,) for text in inputs], prompt, side)


class SideEncoder(_Texts):
    """Texts that may have another number of tokens where it is known what they are."""

    def __init__(self, other: CountingEncoder, sides: Mapping[Side, CountingEncoder]) -> None:
        """Encode queries and documents with an encoder of their own, where there is one."""
        self._other = other
        self._sides = sides

    def limit(self, side: Side | None) -> int | None:
        """Tokens that a text may have."""
        return self._of(side).limit(side)

    def encode(self, inputs: Sequence[str], prompt: str, first_index: int = 0, side: Side | None = None) -> Encoded:
        """Encodings in order; InputError where a text has no tokens."""
        return self._of(side).encode(inputs, prompt, first_index, side)

    def count(self, inputs: Sequence[str], prompt: str, side: Side | None = None) -> list[int]:
        """Tokens of each text with all that is put around it, also of what `encode` cuts off."""
        return self._of(side).count(inputs, prompt, side)

    def _of(self, side: Side | None) -> CountingEncoder:
        return self._other if side is None else self._sides.get(side, self._other)
