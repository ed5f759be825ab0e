"""Texts for a model with a row per token: queries made longer, and which tokens give a row."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.checkpoint.late_interaction import Expansion
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.effective.multi_vector_recipe import MultiVectorRecipe
from akidb_mlx.errors import UnsupportedModelError
from akidb_mlx.model.encoding import Encoding, TokenIds
from akidb_mlx.pipeline import inputs as given
from akidb_mlx.pipeline.encoders import CountingEncoder, Encoded
from akidb_mlx.pipeline.tokenizer import Tokenizer

__all__ = ["TokenEncoder", "TokenRules", "token_rules"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenRules:
    """What the files say of tokens, by their ids."""

    expansion: Expansion | None = None
    filler: int = 0
    """What a query is filled up with."""
    fills_left: bool = False
    skipped: NDArray[np.int32] | None = None
    skipping: tuple[str, ...] = ()
    """The sides that `skipped` tokens give no row on."""
    only: NDArray[np.int32] | None = None
    """The only tokens that give rows, but for queries."""


def token_rules(recipe: MultiVectorRecipe, tokenizer: Tokenizer) -> TokenRules:
    """Words of the files → ids.

    Raises:
        UnsupportedModelError: a word that the vocabulary lacks, where the reference fails.
    """
    checkpoint, expansion, filler = recipe.checkpoint, recipe.expansion, 0
    _refuse_unknown_markers(recipe, tokenizer)
    if expansion is not None:
        filler = _filler(recipe, tokenizer, expansion.token or "")
    skiplist = checkpoint.skiplist
    skipped = _skipped(recipe, tokenizer)
    return TokenRules(
        expansion,
        filler,
        expansion is not None and expansion.strategy == "fixed" and checkpoint.pads_left,
        np.array(skipped, np.int32) if skipped else None,
        skiplist.tasks,
        np.array(skiplist.keep_only, np.int32) if skiplist.keep_only else None,
    )


def _refuse_unknown_markers(recipe: MultiVectorRecipe, tokenizer: Tokenizer) -> None:
    """Stanford's models were trained with markers that are one token each; the reference would split others."""
    checkpoint = recipe.checkpoint
    if checkpoint.written_by != "Stanford":
        return
    for marker in checkpoint.tokenizer_rules["markers"]:
        if tokenizer.token_id(marker.strip()) is None:
            raise UnsupportedModelError(
                f"{checkpoint.path / 'artifact.metadata'}: the marker {marker.strip()!r} is no single token of "
                f"{checkpoint.tokenizer_file.name}, so that a text would begin otherwise than in training; name the "
                "tokens that the model was trained with (query_token_id, doc_token_id)"
            )


def _filler(recipe: MultiVectorRecipe, tokenizer: Tokenizer, token: str) -> int:
    checkpoint, number = recipe.checkpoint, tokenizer.token_id(token)
    size = checkpoint.config.get("vocab_size")
    if number is None or (isinstance(size, int) and number >= size):
        raise UnsupportedModelError(
            f"{checkpoint.tokenizer_file} has no token {token!r} that the model knows, with which queries are to be "
            "filled up; name another (query_expansion's token)"
        )
    return number


def _skipped(recipe: MultiVectorRecipe, tokenizer: Tokenizer) -> list[int]:
    """Ids of the skiplist's words; those that the vocabulary lacks are left out, as in the reference."""
    checkpoint = recipe.checkpoint
    found = {word: tokenizer.token_id(word) for word in checkpoint.skiplist.words}
    missing = [word for word, number in found.items() if number is None]
    if missing and recipe.unknown_token is None and tokenizer.unknown_token is None:
        raise UnsupportedModelError(
            f"{checkpoint.path / checkpoint.sources['skiplist']}: the skiplist has {missing[0]!r}, which the "
            "vocabulary lacks, and there is no unknown token, so that the reference fails; take the word out"
        )
    if missing:
        _log.info("%s: not tokens, hence not left out: %s", checkpoint.name, " ".join(missing))
    return [number for number in found.values() if number is not None]


class TokenEncoder:
    """Texts as another encoder has them, with the marks of late interaction."""

    noun = "text"

    def __init__(self, inner: CountingEncoder, rules: TokenRules) -> None:
        """Put marks on what `inner` gives."""
        self._inner, self._rules = inner, rules

    def limit(self, side: Side | None) -> int | None:
        """Tokens that a text may have."""
        return self._inner.limit(side)

    def check(self, inputs: Sequence[str]) -> Sequence[str]:
        """A list of the texts; TypeError names what is none."""
        return given.checked(inputs)

    def characters(self, item: str) -> int:
        """How long one is."""
        return len(item)

    def encode(self, inputs: Sequence[str], prompt: str, first_index: int = 0, side: Side | None = None) -> Encoded:
        """Encodings in order; InputError where a text has no tokens."""
        part = self._inner.encode(inputs, prompt, first_index, side)
        return replace(part, encodings=[self._marked(encoding.token_ids, side) for encoding in part.encodings])

    def count(self, inputs: Sequence[str], prompt: str, side: Side | None = None) -> list[int]:
        """Tokens of each text, also of what `encode` cuts off; without those that fill queries up."""
        return self._inner.count(inputs, prompt, side)

    def _marked(self, ids: TokenIds, side: Side | None) -> Encoding:
        attended = None
        if side == "query" and self._rules.expansion is not None:
            ids, attended = self._filled_up(ids, self._rules.expansion)
        return Encoding(ids, attended=attended, kept=self._kept(ids, side))

    def _filled_up(self, ids: TokenIds, expansion: Expansion) -> tuple[TokenIds, tuple[int, int] | None]:
        missing = expansion.length - len(ids)
        if missing <= 0:
            return ids, None
        filler = np.full(missing, self._rules.filler, np.int32)
        left = self._rules.fills_left
        longer = np.concatenate([filler, ids] if left else [ids, filler])
        if expansion.attend:
            return longer, None
        return longer, (missing, len(longer)) if left else (0, len(ids))

    def _kept(self, ids: TokenIds, side: Side | None) -> NDArray[np.bool_] | None:
        rules, kept = self._rules, np.ones(len(ids), np.bool_)
        # A text without a side counts as a document, as in the reference.
        if rules.skipped is not None and (side or "document") in rules.skipping:
            kept &= ~np.isin(ids, rules.skipped)
        if rules.only is not None and side != "query":
            kept &= np.isin(ids, rules.only)
        return None if kept.all() else kept
