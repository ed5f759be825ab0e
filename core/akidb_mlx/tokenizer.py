"""Texts → token ids: truncated to the usable length, special tokens kept, never padded. No MLX here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import normalizers

from akidb_mlx.errors import CheckpointError, ConfigError, InputError

__all__ = ["TokenIds", "Tokenized", "Tokenizer"]

TokenIds = NDArray[np.int32]


@dataclass(frozen=True)
class Tokenized:
    """Token ids of some texts, and which of them were cut."""

    token_ids: list[TokenIds]
    truncated: list[int]
    """Indices of the texts that were longer than `max_seq_length`."""


class Tokenizer:
    """A checkpoint's tokenizer.json with its own post-processor; safe to use from several threads."""

    def __init__(
        self,
        file: Path,
        max_seq_length: int | None,
        *,
        do_lower_case: bool = False,
        truncation_side: str = "right",
    ) -> None:
        """Configure truncation once; what the file itself says of truncation and padding does not count."""
        try:
            self._tokenizer = HFTokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{file} cannot be read ({error}); download it again") from None
        specials = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_seq_length is not None and max_seq_length <= specials:
            raise ConfigError(
                f"max_seq_length is {max_seq_length}, but {specials} special tokens are added to each text; "
                f"set at least {specials + 1}"
            )
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if max_seq_length is not None:
            self._tokenizer.enable_truncation(max_seq_length, direction=truncation_side)
        if do_lower_case:
            own = self._tokenizer.normalizer
            lower = normalizers.Lowercase()
            self._tokenizer.normalizer = lower if own is None else normalizers.Sequence([lower, own])
        self.max_seq_length = max_seq_length

    def tokenize(self, texts: Sequence[str], first_index: int = 0) -> Tokenized:
        """Token ids of each text, at most `max_seq_length` each; InputError where a text gives no token.

        `first_index` is the first text's place in what the user gave; errors name that.
        """
        encodings = self._tokenizer.encode_batch_fast([_valid_unicode(text) for text in texts])
        token_ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        for index, ids in enumerate(token_ids):
            if not len(ids):
                raise InputError(
                    f"text {first_index + index} ({texts[index][:40]!r}) has no tokens, hence no vector; leave it out"
                )
        limit = self.max_seq_length
        truncated = [i for i, ids in enumerate(token_ids) if len(ids) == limit and encodings[i].overflowing]
        return Tokenized(token_ids, truncated)

    def prompt_length(self, prompt: str) -> int:
        """Tokens of a prompt as sentence-transformers counts them: without a special token at its end."""
        ids = self._tokenizer.encode(_valid_unicode(prompt)).ids
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return len(ids) - 1 if ids and ids[-1] in special else len(ids)

    def last_token(self) -> str | None:
        """The token that the post-processor puts at the end of each text, if any."""
        tokens = self._tokenizer.encode("a").tokens
        plain = self._tokenizer.encode("a", add_special_tokens=False).tokens
        return tokens[-1] if tokens and tokens[-1:] != plain[-1:] else None


def _valid_unicode(text: str) -> str:
    """Replace lone surrogates, which have no UTF-8 form, by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
