"""Long texts → chunks within a number of tokens, cut where they may be: at paragraphs, sentences, words."""

from collections.abc import Sequence
from dataclasses import dataclass

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.errors import ConfigError
from akidb_mlx.pipeline.encoders import CountingEncoder
from akidb_mlx.pipeline.inputs import valid_unicode
from akidb_mlx.pipeline.tokenizer import Tokenizer

__all__ = ["Chunk", "TextSplitter"]

# A prompt and what it stands before may share a token: what each adds is the most that these show.
_PROBES = ("a", " a", "A b", "1", ". a", "\na")
_SENTENCE_ENDS = frozenset(".!?…:;")
_WIDE_SENTENCE_ENDS = frozenset("。！？；")


@dataclass(frozen=True)
class Chunk:
    """A part of a text."""

    text: str
    start: int
    """Where it begins in the text (characters)."""

    @property
    def end(self) -> int:
        """Where it ends.

        Examples:
            >>> Chunk("a text", 10).end
            16
        """
        return self.start + len(self.text)


class TextSplitter:
    """Cuts texts for one model and side: no chunk has more tokens than are read, none but a text's last is half empty.

    A token that a text adds within a document counts here; the prompt, special tokens and a chat template count once
    a chunk, and are left out of `chunk_tokens`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder: CountingEncoder,
        prompt: str,
        side: Side,
        max_tokens: int | None = None,
        overlap: int = 0,
    ) -> None:
        """Chunks of `max_tokens`, with all that is put around them (None: what the model reads), and their overlap.

        Raises:
            ConfigError: more than the model reads, or too few for what is put around a text; an overlap of half a
                chunk or more; no limit anywhere.
        """
        self._tokenizer, self._encoder = tokenizer, encoder
        self._prompt, self._side = prompt, side
        limit = encoder.limit(side)
        if max_tokens is None and limit is None:
            raise ConfigError("this model reads texts of any length; say how many tokens a chunk may have")
        if max_tokens is not None and limit is not None and max_tokens > limit:
            raise ConfigError(f"chunks of {max_tokens} tokens would be cut: the model reads {limit} (max_seq_length)")
        self.max_tokens: int = limit if max_tokens is None else max_tokens  # type: ignore[assignment]
        around = max(full - self.length(one) for full, one in zip(self.count(_PROBES), _PROBES, strict=True))
        self.chunk_tokens = self.max_tokens - around
        """Tokens of a chunk's own text."""
        if self.chunk_tokens < 1:
            raise ConfigError(
                f"of {self.max_tokens} tokens a chunk the prompt and special tokens take {around}; none is left"
            )
        if not 0 <= overlap <= (self.chunk_tokens - 1) // 2:
            raise ConfigError(
                f"an overlap of {overlap} tokens does not fit chunks of {self.chunk_tokens}: take less than half"
            )
        self._overlap = overlap

    def length(self, text: str) -> int:
        """Tokens that a text adds within a document, also beyond the model's limit.

        Examples:
            >>> splitter_for(embedder).length("what is MLX?")
            5
        """
        return len(self._tokenizer.offsets(text))

    def tokens(self, text: str) -> list[str]:
        """The same tokens, as the text spells them.

        Examples:
            >>> splitter_for(embedder).tokens("what is MLX?")
            ['what', 'is', 'ML', 'X', '?']
        """
        text = valid_unicode(text)
        return [text[start:end] for start, end in self._tokenizer.offsets(text)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model would read it whole: with prompt and special tokens.

        Examples:
            >>> splitter_for(embedder).count(["what is MLX?"])  # with [CLS] and [SEP]
            [7]
        """
        return self._encoder.count(texts, self._prompt, self._side)

    def split(self, text: str) -> list[Chunk]:
        """The text itself where it is short enough, else its chunks in order, without the white space between them.

        Examples:
            >>> [(chunk.text, chunk.start) for chunk in splitter_for(embedder).split("a short text")]
            [('a short text', 0)]
        """
        text = valid_unicode(text)
        offsets = self._tokenizer.offsets(text)
        if len(offsets) <= self.chunk_tokens and self.count([text])[0] <= self.max_tokens:
            return [Chunk(text, 0)]
        chunks: list[Chunk] = []
        first = 0
        while first < len(offsets):
            after, chunk = self._next(text, offsets, first)
            chunks.append(chunk)
            first = after if after == len(offsets) else self._step_back(text, offsets, first, after)
        return chunks

    def _next(self, text: str, offsets: Sequence[tuple[int, int]], first: int) -> tuple[int, Chunk]:
        """The chunk that begins with token `first`, and the token after it."""
        most, last = self.chunk_tokens, len(offsets)
        while True:
            left = last - first
            after = last if left <= most else self._cut(text, offsets, first, most)
            start = 0 if first == 0 else offsets[first][0]
            end = len(text) if after == last else offsets[after][0]
            piece = text[start:end]
            chunk = Chunk(piece.strip(), start + len(piece) - len(piece.lstrip()))
            # Other tokens than those of the whole text, where a word was cut.
            excess = self.count([chunk.text])[0] - self.max_tokens if chunk.text else 0
            if excess <= 0 or after == first + 1:
                return after, chunk
            most = max(1, min(most, after - first) - excess)

    def _cut(self, text: str, offsets: Sequence[tuple[int, int]], first: int, most: int) -> int:
        """Where to end a chunk of at most `most` tokens: the latest of the best places in its second half."""
        highest = first + most
        left = len(offsets) - first
        if left < 2 * most:  # the rest shall not be half empty either
            highest = max(first + (left + 1) // 2, min(highest, len(offsets) - most // 2))
        lowest = max(first + 1, first + most // 2)
        best, chosen = -1, max(highest, first + 1)
        for place in range(chosen, min(lowest, chosen) - 1, -1):
            rank = _rank(text, offsets[place - 1][1], offsets[place][0])
            if rank > best:
                best, chosen = rank, place
        return chosen

    def _step_back(self, text: str, offsets: Sequence[tuple[int, int]], first: int, after: int) -> int:
        """The next chunk's first token: some of the last one's are in it too, from the beginning of a word."""
        for place in range(max(first + 1, after - self._overlap), after):
            if _rank(text, offsets[place - 1][1], offsets[place][0]) > 0:
                return place
        return after


def _rank(text: str, before: int, after: int) -> int:
    """How good a cut is between tokens that end and begin there: 4 a paragraph's end to 0 within a word, -1 never."""
    if after < before:  # both are parts of one letter
        return -1
    start, end = before, after
    while start > 0 and text[start - 1].isspace():
        start -= 1
    while end < len(text) and text[end].isspace():
        end += 1
    gap, last = text[start:end], text[start - 1 : start]
    if gap.count("\n") > 1:
        return 4
    if last in _WIDE_SENTENCE_ENDS or (gap and last in _SENTENCE_ENDS):
        return 3
    if "\n" in gap:
        return 2
    return 1 if gap else 0
