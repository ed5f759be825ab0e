"""Pairs of texts → encodings: side by side, or through a chat template."""

from collections.abc import Sequence

import numpy as np

from akidb_mlx.errors import InputError
from akidb_mlx.model.encoding import Encoding, TokenIds
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.chat_renderer import ChatRenderer
from akidb_mlx.pipeline.encoders import Encoded
from akidb_mlx.pipeline.tokenizer import Tokenizer

__all__ = ["ChatEncoder", "PairEncoder"]

Pair = tuple[str, str]
# What stands for a query and a document where the template's end is looked for; they end in other tokens.
_FILLERS = ("0", "1 2 3 4")


class _Pairs:
    """What both ways have in common."""

    noun = "pair"

    def check(self, inputs: Sequence[Pair]) -> Sequence[Pair]:
        """A list of the pairs; TypeError names what is none."""
        return given.checked_pairs(inputs)

    def characters(self, item: Pair) -> int:
        """How long one is."""
        return len(item[0]) + len(item[1])


class PairEncoder(_Pairs):
    """Query and text side by side, as the tokenizer's post-processor joins two; a prompt stands before the query."""

    def __init__(self, tokenizer: Tokenizer, *, token_types: bool) -> None:
        """Encode with this tokenizer; `token_types`: whether the model is told where the second text starts."""
        self._tokenizer = tokenizer
        self._token_types = token_types

    def encode(self, inputs: Sequence[Pair], prompt: str, first_index: int = 0) -> Encoded:
        """Encodings in order; InputError where a pair has no tokens."""
        pairs = [(prompt + query, text) for query, text in inputs] if prompt else inputs
        part = self._tokenizer.tokenize_pairs(pairs, first_index, types=self._token_types)
        starts = part.second_starts or [0] * len(pairs)
        encodings = [Encoding(ids, second_start=start) for ids, start in zip(part.token_ids, starts, strict=True)]
        return Encoded(encodings, part.truncated)


class ChatEncoder(_Pairs):
    """Query and text through a chat template into one text, whose end stays when it is cut."""

    def __init__(self, tokenizer: Tokenizer, renderer: ChatRenderer) -> None:
        """Encode with this tokenizer, which adds no special tokens: the template holds them."""
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._suffixes: dict[str, TokenIds] = {}
        self._suffix("")  # a limit that holds little but the template is found at once

    def encode(self, inputs: Sequence[Pair], prompt: str, first_index: int = 0) -> Encoded:
        """Encodings in order; InputError where a pair has no tokens."""
        part = self._tokenizer.tokenize(self._renderer.render(inputs, prompt), first_index)
        limit, suffix = self._tokenizer.max_seq_length, self._suffix(prompt)
        for ids in part.token_ids:
            # As the reference: over the last tokens of each row of the full length, also one that was not cut.
            if len(suffix) and len(ids) == limit:
                ids[-len(suffix) :] = suffix
        return Encoded([Encoding(ids) for ids in part.token_ids], part.truncated)

    def _suffix(self, prompt: str) -> TokenIds:
        """What the template puts after the texts: the tokens in which two renderings end alike."""
        if prompt not in self._suffixes:
            first, second = (self._untruncated(filler, prompt) for filler in _FILLERS)
            same = 0
            while same < min(len(first), len(second)) and first[-1 - same] == second[-1 - same]:
                same += 1
            # A text that is cut at its start keeps its end anyway.
            restores = self._renderer.restores_suffix and self._tokenizer.truncation_side == "right"
            trusted = restores and same < min(len(first), len(second))
            suffix = first[len(first) - same :] if trusted else first[:0]
            self._refuse_long(len(suffix))
            self._suffixes[prompt] = suffix
        return self._suffixes[prompt]

    def _untruncated(self, filler: str, prompt: str) -> TokenIds:
        (text,) = self._renderer.render([(filler, filler)], prompt)
        return np.array(self._tokenizer.ids(text), np.int32)

    def _refuse_long(self, suffix: int) -> None:
        limit = self._tokenizer.max_seq_length
        if limit is not None and 2 * suffix >= limit:
            raise InputError(
                f"max_seq_length is {limit}, of which the chat template's end takes {suffix} tokens: long texts would "
                "leave nothing else; set a larger max_seq_length"
            )
