"""What a call passes → encodings for the model: texts, pairs of texts, pairs through a chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from akidb_mlx.model.encoding import Encoding
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.tokenizer import Tokenizer

__all__ = ["NO_TOKENS", "Encoded", "Encoder", "TextEncoder"]

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

    def check(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """A list of the inputs; TypeError names what is none."""

    def characters(self, item: Input) -> int:
        """How long one is."""

    def encode(self, inputs: Sequence[Input], prompt: str, first_index: int = 0) -> Encoded:
        """Encodings in order; InputError where one has no tokens. `first_index` is the first one's place in a call."""


class TextEncoder:
    """Texts, each after the prompt; pooling may leave the prompt's tokens out."""

    noun = "text"

    def __init__(self, tokenizer: Tokenizer, *, include_prompt: bool) -> None:
        """Encode with this tokenizer."""
        self._tokenizer = tokenizer
        self._include_prompt = include_prompt
        self._prompt_lengths: dict[str, int] = {}

    def check(self, inputs: Sequence[str]) -> Sequence[str]:
        """A list of the texts; TypeError names what is none."""
        return given.checked(inputs)

    def characters(self, item: str) -> int:
        """How long one is."""
        return len(item)

    def encode(self, inputs: Sequence[str], prompt: str, first_index: int = 0) -> Encoded:
        """Encodings in order; InputError where a text has no tokens."""
        texts = [prompt + text for text in inputs] if prompt else inputs
        part = self._tokenizer.tokenize(texts, first_index)
        left_out = self._prompt_length(prompt)
        return Encoded([Encoding(ids, left_out) for ids in part.token_ids], part.truncated)

    def _prompt_length(self, prompt: str) -> int:
        """Leading tokens that pooling leaves out."""
        if not prompt or self._include_prompt:
            return 0
        if prompt not in self._prompt_lengths:
            self._prompt_lengths[prompt] = self._tokenizer.prompt_length(prompt)
        return self._prompt_lengths[prompt]
