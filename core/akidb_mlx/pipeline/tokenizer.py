"""Texts → token ids: truncated to the usable length, special tokens kept, never padded. No MLX here."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HFTokenizer

from akidb_mlx.errors import AkiDBMLXError, InputError
from akidb_mlx.model.encoding import TokenIds
from akidb_mlx.pipeline.inputs import valid_unicode
from akidb_mlx.pipeline.prepared_tokenizer import (
    append_token,
    last_token,
    limit_length,
    median_length,
    put_lowercase,
    read_tokenizer,
    register_marker,
    unknown_token,
)
from akidb_mlx.pipeline.tokenizer_processes import Parts, TokenizerProcesses, unpacked
from akidb_mlx.pipeline.waiting import THREADS

__all__ = ["NO_TOKEN", "Tokenized", "Tokenizer", "valid_unicode"]

NO_TOKEN = -1  # what a static model gives a zero vector
# Characters that are cut at a time: the library takes up to 100 bytes for each, whatever of them is kept.
_MOST_CHARACTERS = 1 << 17


@dataclass(frozen=True)
class Tokenized:
    """Token ids of some texts, and which of them were cut."""

    token_ids: list[TokenIds]
    truncated: list[int]
    """Indices of the texts that were longer than `max_seq_length`."""
    second_starts: list[int] = field(default_factory=list)
    """Of pairs, where they were asked for: the first token of type 1, 0 where there is none."""


class Tokenizer:
    """A checkpoint's tokenizer with its post-processor; safe to use from several threads."""

    def __init__(
        self,
        file: Path,
        max_seq_length: int | None,
        *,
        do_lower_case: bool = False,
        truncation_side: str | None = None,
        vocab_size: int | None = None,
        state: str | None = None,
        split_special_tokens: bool = False,
        special_tokens: bool = True,
        drop_unknown: bool = False,
        cut_characters: bool = False,
        zero_if_empty: bool = False,
        append: str | None = None,
        pairs: bool = False,
        truncation: str = "longest_first",
        named_specials: Sequence[str] | None = None,
        markers: Sequence[str] = (),
        strip: bool = False,
    ) -> None:
        """Configure truncation once; what the file says of it (but for the side) and of padding does not count.

        Args:
            file: tokenizer.json.
            max_seq_length: tokens that a text may have, special ones included; None for any number.
            do_lower_case: put a Lowercase before the file's own normalizer, where that has none.
            truncation_side: which end is cut off, "right" or "left"; None for what the file says, else "right".
            vocab_size: the model's; a text with a token beyond it is refused.
            state: what counts in place of the file, in its form.
            split_special_tokens: whether special tokens that stand in a text are split as other words are.
            special_tokens: whether the file's post-processor adds them.
            drop_unknown: leave out tokens that stand for what the tokenizer does not know.
            cut_characters: cut texts at max_seq_length × the median length of a token first (model2vec).
            zero_if_empty: a text without tokens is the one token NO_TOKEN, rather than an error.
            append: a special token after each text, where the file's post-processor puts none there.
            pairs: whether two texts are joined, which takes more special tokens.
            truncation: which of two texts is cut, as `tokenizers` calls it, or "do_not_truncate".
            named_specials: the only special tokens that count as such at a prompt's end; None for all.
            markers: what is to be one token, whole or its first word, where the vocabulary holds that.
            strip: leave out white space around a text and the prompt before it.
        """
        live = read_tokenizer(file, state)
        self.truncation_side = truncation_side or (live.truncation or {}).get("direction", "right")
        live.no_truncation()
        if append is not None and append != last_token(live):
            live = append_token(live, file, append, vocab_size)
        for marker in markers:
            register_marker(live, marker)
        limit_length(
            live,
            max_seq_length,
            special_tokens=special_tokens,
            pairs=pairs,
            truncation=truncation,
            side=self.truncation_side,
        )
        live.encode_special_tokens = split_special_tokens
        if do_lower_case:
            put_lowercase(live)
        self.max_seq_length = max_seq_length
        self._live: HFTokenizer | None = live
        self._again: Callable[[], Tokenizer] | None = None
        self._lock = threading.Lock()
        self._special_tokens = special_tokens
        self._vocab_size = vocab_size
        self._named_specials = named_specials
        self._unknown = unknown_token(live) if drop_unknown else None
        self._max_characters = (
            max_seq_length * median_length(live) if cut_characters and max_seq_length is not None else None
        )
        self._zero_if_empty = zero_if_empty
        self._strip = strip
        self.processes: TokenizerProcesses | None = None
        """Who cuts the texts of long calls."""

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the tokenizer itself as it stands, whatever its file says by now."""
        live = self._tokenizer
        own = {"_lock": None, "_again": None, "processes": None, "_live": None}
        return {**self.__dict__, **own, "live": (live.to_str(), live.encode_special_tokens)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the same again."""
        text, special = state.pop("live")
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._live = HFTokenizer.from_str(text)
        self._live.encode_special_tokens = special

    @property
    def _tokenizer(self) -> HFTokenizer:
        live = self._live
        if live is None:
            with self._lock:
                if self._live is None:
                    assert self._again is not None
                    self._live = self._again()._tokenizer
                live = self._live
        return live

    def sleep(self, again: Callable[[int | None], "Tokenizer"]) -> None:
        """Free its vocabulary until it is next used; `again` makes the same of its limit."""
        self._again = partial(again, self.max_seq_length)
        self._live = None
        if self.processes is not None:
            self.processes.close(wait=False)  # a device's thread calls this

    def close(self) -> None:
        """End the processes that cut texts for it."""
        if self.processes is not None:
            self.processes.close()

    @property
    def lanes(self) -> int:
        """How many parts of a call are worth cutting at once."""
        return THREADS if self.processes is None else max(THREADS, self.processes.lanes)

    def after_fork(self) -> None:
        """In a forked child, where a thread of its parent's may have held the lock."""
        self._lock = threading.Lock()
        if self.processes is not None:
            self.processes.after_fork()

    def token_id(self, token: str) -> int | None:
        """The id of a token, None where the vocabulary lacks it."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    @property
    def unknown_token(self) -> str | None:
        """What the vocabulary's model gives for what it does not know."""
        number = unknown_token(self._tokenizer)
        return None if number is None else self._tokenizer.id_to_token(number)

    def tokenize(self, texts: Sequence[str], first_index: int = 0) -> Tokenized:
        """Token ids of each text, at most `max_seq_length` each; InputError where a text gives no token.

        `first_index` is the first text's place in what the user gave; errors name that.
        """
        if self.processes and (parts := self.processes.ask(self, "tokenize", texts, first_index=first_index)):
            return _whole(parts)
        cut = self._max_characters
        valid = [valid_unicode(text.strip() if self._strip else text[:cut]) for text in texts]
        token_ids: list[TokenIds] = []
        truncated: list[int] = []
        limit = self.max_seq_length
        for start, piece in _pieces(valid):
            for index, encoding in enumerate(self._encoded(piece, first_index + start), start):
                ids = np.array(encoding.ids, dtype=np.int32)
                token_ids.append(ids)
                if (len(ids) == limit and encoding.overflowing) or (cut is not None and len(texts[index]) > cut):
                    truncated.append(index)
        if self._unknown is not None:
            token_ids = [ids[ids != self._unknown] for ids in token_ids]
        for index, ids in enumerate(token_ids):
            if not len(ids) and self._zero_if_empty:
                token_ids[index] = ids = np.array([NO_TOKEN], dtype=np.int32)
            if not len(ids):
                place = first_index + index
                raise InputError(
                    f"text {place} ({texts[index][:40]!r}) has no tokens, hence no vector; leave it out"
                ).at(place)
        self._refuse_unknown_ids(token_ids, first_index)
        return Tokenized(token_ids, truncated)

    def _encoded(self, texts: Sequence[str], first_index: int) -> list[Any]:
        """Each text's encoding; InputError names the first one that the tokenizer has no tokens for."""
        try:
            return list(self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._special_tokens))
        except AkiDBMLXError:  # its file has changed
            raise
        except Exception as error:  # tokenizers raises bare Exception
            for place, text in enumerate(texts, first_index):
                try:
                    self._tokenizer.encode(text, add_special_tokens=self._special_tokens)
                except Exception as reason:
                    told = f"text {place} cannot be tokenised ({reason}); leave it out"
                    raise InputError(told).at(place) from None
            raise InputError(f"the texts from {first_index} on cannot be tokenised ({error})") from None

    def tokenize_pairs(
        self, pairs: Sequence[tuple[str, str]], first_index: int = 0, *, types: bool = False
    ) -> Tokenized:
        """Token ids of each pair, joined by the post-processor; InputError where one gives no token.

        With `types` also where each second text starts. The error also where the text that is to be cut is shorter
        than what is too much.
        """
        if self.processes and (
            parts := self.processes.ask(self, "tokenize_pairs", pairs, first_index=first_index, types=types)
        ):
            return _whole(parts)
        valid = [(valid_unicode(query), valid_unicode(text)) for query, text in pairs]
        try:
            encodings = self._tokenizer.encode_batch_fast(valid, add_special_tokens=self._special_tokens)
        except Exception as error:  # tokenizers raises bare Exception
            raise InputError(f"one of the pairs from {first_index} on cannot be cut to its length ({error})") from None
        token_ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        for index, ids in enumerate(token_ids):
            if not len(ids):
                place = first_index + index
                raise InputError(f"pair {place} has no tokens, hence no score; leave it out").at(place)
        self._refuse_unknown_ids(token_ids, first_index)
        limit = self.max_seq_length
        truncated = [i for i, one in enumerate(encodings) if len(token_ids[i]) == limit and one.overflowing]
        return Tokenized(token_ids, truncated, [_second_start(one.type_ids) for one in encodings if types])

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with special tokens, also of what is cut off.

        Where characters are cut too, a text of more of them has as many more tokens than `max_seq_length`.
        """
        encodings = self._tokenizer.encode_batch_fast(
            [valid_unicode(text.strip() if self._strip else text) for text in texts],
            add_special_tokens=self._special_tokens,
        )
        specials = self._tokenizer.num_special_tokens_to_add(is_pair=False) if self._special_tokens else 0
        wholes = [(len(one.overflowing), (one, *one.overflowing)) for one in encodings]
        counts = [sum(self._known(part.ids) for part in parts) - specials * more for more, parts in wholes]
        if self._max_characters is not None and self.max_seq_length is not None:
            shares = [len(text) / self._max_characters for text in texts]
            counts = [
                max(count, math.ceil(share * self.max_seq_length)) if share > 1 else count
                for count, share in zip(counts, shares, strict=True)
            ]
        return [max(1, count) for count in counts] if self._zero_if_empty else counts

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands in the text, in order, also beyond the limit; special tokens are not added.

        A text with lone surrogates is read as `valid_unicode` gives it.
        """
        encoding = self._tokenizer.encode(valid_unicode(text), add_special_tokens=False)
        found = [
            place
            for part in (encoding, *encoding.overflowing)
            for place, number in zip(part.offsets, part.ids, strict=True)
            if number != self._unknown
        ]
        return found if self.truncation_side == "right" else sorted(found)

    def _known(self, ids: Sequence[int]) -> int:
        return len(ids) if self._unknown is None else sum(number != self._unknown for number in ids)

    def ids(self, text: str) -> list[int]:
        """All of a text's token ids, also beyond the limit where the end is cut off."""
        encoding = self._tokenizer.encode(valid_unicode(text), add_special_tokens=self._special_tokens)
        rest = encoding.overflowing if self.truncation_side == "right" else []
        return [number for part in (encoding, *rest) for number in part.ids]

    def _refuse_unknown_ids(self, token_ids: Sequence[TokenIds], first_index: int) -> None:
        """MLX reads beyond a table's end without a word."""
        if self._vocab_size is None or not token_ids or np.concatenate(token_ids).max() < self._vocab_size:
            return
        index, ids = next((i, ids) for i, ids in enumerate(token_ids) if ids.max() >= self._vocab_size)
        token = self._tokenizer.id_to_token(int(ids.max()))
        raise InputError(
            f"text {first_index + index} has the token {token!r} ({ids.max()}), but the model knows only "
            f"{self._vocab_size} (vocab_size); leave it out"
        ).at(first_index + index)

    def prompt_length(self, prompt: str) -> int:
        """Tokens of a prompt as sentence-transformers counts them: without a special token at its end."""
        ids = self._tokenizer.encode(valid_unicode(prompt), add_special_tokens=self._special_tokens).ids
        added, named = self._tokenizer.get_added_tokens_decoder(), self._named_specials
        special = {i for i, token in added.items() if token.special and (named is None or token.content in named)}
        return len(ids) - 1 if ids and ids[-1] in special else len(ids)

    def token(self, number: int) -> str | None:
        """The token of an id; None where the vocabulary has none."""
        token: str | None = self._tokenizer.id_to_token(number)
        return token

    def last_token(self) -> str | None:
        """The token that the post-processor puts at the end of each text, if any."""
        return last_token(self._tokenizer) if self._special_tokens else None


def _pieces(texts: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Texts of so many characters together, or one, and the first one's place."""
    start = size = 0
    for place, text in enumerate(texts):
        if place > start and size + len(text) > _MOST_CHARACTERS:
            yield start, texts[start:place]
            start, size = place, 0
        size += len(text)
    if start < len(texts):
        yield start, texts[start:]


def _whole(parts: Parts) -> Tokenized:
    """What another process made."""
    return Tokenized(unpacked(parts), parts[2], parts[3])


def _second_start(types: Sequence[int]) -> int:
    """Where types go from 0 to 1; 0 where they do not.

    Raises:
        InputError: other types, or back to 0: no model of such a layout is known here.
    """
    if 1 not in types:
        return 0
    start = types.index(1)
    if set(types[start:]) != {1} or start == 0:
        raise InputError("the tokenizer gives a pair types of tokens in a layout that is not supported here")
    return start
