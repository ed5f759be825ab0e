"""Pairs of texts → encodings: side by side, or through a chat template into one text."""

from collections.abc import Sequence

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.chat_tokenizer import ChatTokenizer
from akidb_mlx.pipeline.encoders import Encoded
from akidb_mlx.pipeline.tokenizer import Tokenizer

__all__ = ["ChatPairEncoder", "PairEncoder"]

Pair = tuple[str, str]


class _Pairs:
    """What both ways have in common."""

    noun = "pair"

    def __init__(self, tokenizer: Tokenizer | ChatTokenizer) -> None:
        self._limit = tokenizer.max_seq_length

    def limit(self, _: Side | None) -> int | None:
        """Tokens that a pair may have."""
        return self._limit

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
        super().__init__(tokenizer)
        self._tokenizer = tokenizer
        self._token_types = token_types

    def encode(self, inputs: Sequence[Pair], prompt: str, first_index: int = 0, side: Side | None = None) -> Encoded:
        """Encodings in order; InputError where a pair has no tokens."""
        pairs = [(prompt + query, text) for query, text in inputs] if prompt else inputs
        part = self._tokenizer.tokenize_pairs(pairs, first_index, types=self._token_types)
        starts = part.second_starts or [0] * len(pairs)
        encodings = [Encoding(ids, second_start=start) for ids, start in zip(part.token_ids, starts, strict=True)]
        return Encoded(encodings, part.truncated)


class ChatPairEncoder(_Pairs):
    """Query and text as messages of a chat."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        """Encode with this tokenizer."""
        super().__init__(tokenizer)
        self._tokenizer = tokenizer

    def encode(self, inputs: Sequence[Pair], prompt: str, first_index: int = 0, side: Side | None = None) -> Encoded:
        """Encodings in order; InputError where a pair has no tokens."""
        part = self._tokenizer.tokenize(inputs, prompt, first_index)
        return Encoded([Encoding(ids) for ids in part.token_ids], part.truncated)
