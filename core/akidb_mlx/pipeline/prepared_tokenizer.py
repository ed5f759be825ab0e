"""A checkpoint's `tokenizers.Tokenizer` made ready: read, then changed where more than its file counts. No MLX here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, normalizers, processors

from akidb_mlx.errors import CheckpointError, ConfigError

__all__ = [
    "append_token",
    "last_token",
    "limit_length",
    "median_length",
    "put_lowercase",
    "read_tokenizer",
    "register_marker",
    "unknown_token",
]


def read_tokenizer(file: Path, state: str | None) -> Tokenizer:
    """What the file holds, or `state` in its place; it neither pads nor drops tokens."""
    try:
        live = Tokenizer.from_file(str(file)) if state is None else Tokenizer.from_str(state)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{file} cannot be read ({error}); download it again") from None
    live.no_padding()
    if getattr(live.model, "dropout", None):  # of training; it would make other tokens at each call
        live.model.dropout = None
    return live


def limit_length(
    live: Tokenizer, max_seq_length: int | None, *, special_tokens: bool, pairs: bool, truncation: str, side: str
) -> None:
    """Have it cut what is longer; ConfigError where the special tokens alone are."""
    if max_seq_length is None:
        return
    specials = live.num_special_tokens_to_add(is_pair=pairs) if special_tokens else 0
    if max_seq_length <= specials:
        raise ConfigError(
            f"max_seq_length is {max_seq_length}, but {specials} special tokens are added to each "
            f"{'pair' if pairs else 'text'}; set at least {specials + 1}"
        )
    strategy = "longest_first" if truncation == "do_not_truncate" else truncation
    live.enable_truncation(max_seq_length, strategy=strategy, direction=side)


def append_token(live: Tokenizer, file: Path, token: str, vocab_size: int | None) -> Tokenizer:
    """The same with a special token after each text, where its post-processor puts none there."""
    number = live.token_to_id(token)
    if number is None or (vocab_size is not None and number >= vocab_size):
        raise CheckpointError(f"{file} lacks the token {token!r}, which tokenizer_config.json puts after each text")
    state = json.loads(live.to_str())
    template = _first_template(state["post_processor"])
    if template is not None:  # a second one would not be applied
        template["single"].append({"SpecialToken": {"id": token, "type_id": 0}})
        template["special_tokens"][token] = {"id": token, "ids": [number], "tokens": [token]}
        live = Tokenizer.from_str(json.dumps(state))
    else:
        then = processors.TemplateProcessing(single=f"$A {token}", special_tokens=[(token, number)])
        before = live.post_processor
        live.post_processor = then if before is None else processors.Sequence([before, then])
    if last_token(live) != token:
        raise CheckpointError(f"{file}: its post-processor leaves no place for {token!r} after each text")
    return live


def _first_template(processor: Any) -> Any:
    """The template of a post-processor, which may be a sequence; None where it has none."""
    if not processor or processor["type"] == "TemplateProcessing":
        return processor
    return next(filter(None, map(_first_template, processor.get("processors", []))), None)


def register_marker(live: Tokenizer, marker: str) -> None:
    """Take a marker in a text as one token, as the reference does for the markers of late interaction.

    Otherwise the splitter takes "[unused0]" apart, and a normalizer changes "[Q] " before it is looked up.
    """
    for piece in (marker, *marker.split(None, 1)[:1]):
        if live.token_to_id(piece) is not None:
            if live.encode(piece, add_special_tokens=False).tokens != [piece]:
                live.add_special_tokens([AddedToken(piece, normalized=False, special=True)])
            return


def put_lowercase(live: Tokenizer) -> None:
    """Put a Lowercase before its normalizer, unless one is there as sentence-transformers looks for it."""
    own: Any = live.normalizer
    steps: Any = own if isinstance(own, normalizers.Sequence) else [own]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        lower = normalizers.Lowercase()
        live.normalizer = lower if own is None else normalizers.Sequence([lower, own])


def last_token(live: Tokenizer) -> str | None:
    """The token that the post-processor puts at the end of each text, if any."""
    tokens: list[str] = live.encode("a").tokens
    plain = live.encode("a", add_special_tokens=False).tokens
    return tokens[-1] if tokens and tokens[-1:] != plain[-1:] else None


def unknown_token(live: Tokenizer) -> int | None:
    """What its model gives for what it does not know."""
    token = getattr(live.model, "unk_token", None)
    if token is not None:
        unknown: int | None = live.token_to_id(token)
        return unknown
    stated = json.loads(live.to_str())["model"].get("unk_id")  # Unigram's
    return int(stated) if stated is not None else None


def median_length(live: Tokenizer) -> int:
    """Characters of its median token."""
    return int(np.median([len(token) for token in live.get_vocab()]))
