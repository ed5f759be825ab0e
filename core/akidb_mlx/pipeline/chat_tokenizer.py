"""Inputs → token ids through a chat template, whose end stays when a text is cut. No MLX here."""

from collections.abc import Sequence

import numpy as np

from akidb_mlx.errors import InputError
from akidb_mlx.model.encoding import TokenIds
from akidb_mlx.pipeline.chat_renderer import ChatRenderer
from akidb_mlx.pipeline.tokenizer import Tokenized, Tokenizer

__all__ = ["ChatTokenizer"]

# What stands for each text where the template's end is looked for; they end in other tokens.
_FILLERS = ("0", "1 2 3 4")
# Prompts whose ends are remembered.
_MOST_PROMPTS = 256


class ChatTokenizer:
    """A template and a tokenizer, which adds no special tokens: the template holds them."""

    def __init__(self, tokenizer: Tokenizer, renderer: ChatRenderer) -> None:
        """Refuse at once what no input could pass; the prompt may change that later.

        Raises:
            UnsupportedModelError: the template loses a text. InputError: the limit holds little but its end.
        """
        self.max_seq_length = tokenizer.max_seq_length
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._suffixes: dict[tuple[str, str | None], TokenIds] = {}
        self._suffix("", None)

    def tokenize(
        self, inputs: Sequence[tuple[str, ...]], prompt: str, first_index: int = 0, task: str | None = None
    ) -> Tokenized:
        """Token ids of each input; InputError where one has no tokens."""
        suffix = self._suffix(prompt, task)
        part = self._tokenizer.tokenize(self._renderer.render(inputs, prompt, task), first_index)
        limit = self.max_seq_length
        for ids in part.token_ids:
            # As the reference: over the last tokens of each row of the full length, also one that was not cut.
            if len(suffix) and len(ids) == limit:
                ids[-len(suffix) :] = suffix
        return part

    def count(self, inputs: Sequence[tuple[str, ...]], prompt: str, task: str | None = None) -> list[int]:
        """Tokens of each input, also of what is cut off."""
        return self._tokenizer.count(self._renderer.render(inputs, prompt, task))

    def _suffix(self, prompt: str, task: str | None) -> TokenIds:
        """What the template puts after the texts: the tokens in which two renderings end alike."""
        known = self._suffixes.get((prompt, task))
        if known is not None:
            return known
        self._renderer.check(prompt, task)
        suffix = self._find_suffix(prompt, task)
        if len(self._suffixes) == _MOST_PROMPTS:
            self._suffixes.clear()
        self._suffixes[prompt, task] = suffix
        return suffix

    def _find_suffix(self, prompt: str, task: str | None) -> TokenIds:
        first, second = (self._untruncated(filler, prompt, task) for filler in _FILLERS)
        shorter = min(len(first), len(second))
        same = 0
        while same < shorter and first[-1 - same] == second[-1 - same]:
            same += 1
        trusted = self._renderer.restores_suffix and same < shorter
        self._refuse_long(len(first))
        return first[len(first) - same :] if trusted else first[:0]

    def _untruncated(self, filler: str, prompt: str, task: str | None) -> TokenIds:
        (text,) = self._renderer.render([(filler,) * len(self._renderer.roles)], prompt, task)
        return np.array(self._tokenizer.ids(text), np.int32)

    def _refuse_long(self, tokens: int) -> None:
        limit = self.max_seq_length
        if limit is not None and tokens >= limit:
            raise InputError(
                f"max_seq_length is {limit}, all of which the chat template takes with the prompt: texts would leave "
                "no trace; set a larger max_seq_length"
            )
