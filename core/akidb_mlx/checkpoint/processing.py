"""What sentence-transformers' file says of every call of the tokenizer (`processing_kwargs`). No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.sentence_config import SentenceConfig
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Processing", "Side", "read_processing"]

Side = Literal["query", "document"]
_SIDES: tuple[Side, ...] = ("query", "document")
_KEY = "processing_kwargs"
# Keys that change no token of a row.
_PLAIN = frozenset({"padding", "padding_side", "pad_to_multiple_of", "logits_to_keep", "return_tensors"})
_SIZES = frozenset({"max_length", "truncation"})
_STRATEGIES: Mapping[Any, str] = {
    True: "longest_first",
    False: "do_not_truncate",
    **{name: name for name in ("longest_first", "only_first", "only_second", "do_not_truncate")},
}


@dataclass(frozen=True)
class Processing:
    """What it says."""

    truncation: str = "longest_first"
    max_length: Fact[int] | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    padding_side: Any = None
    message: Mapping[str, Any] | None = None
    """How a text becomes a message of a chat; None where nothing says that it does."""
    side_lengths: Mapping[Side, int] = field(default_factory=dict)
    """Tokens that a text may have where it is known to be a "query" or a "document", before any other length."""


def read_processing(sentence: SentenceConfig | None) -> Processing:
    """The last that says it wins: for messages the common settings, those for texts, the chat template's own.

    For plain texts the common ones come last, and the template's do not count.

    Raises:
        UnsupportedModelError: a key that changes tokens in a way that is not computed here.
    """
    if sentence is None:
        return Processing()
    said, message = sentence.said.get(_KEY) or {}, _message(sentence)
    if not isinstance(said, dict) or not all(isinstance(part, dict) for part in said.values()):
        raise CheckpointError(f"{sentence.file}: {_KEY} must be an object of objects, not {said!r}")
    common, text, template = ({**said.get(key, {})} for key in ("common", "text", "chat_template"))
    unknown = (common.keys() | text.keys()) - _SIZES - _PLAIN
    if unknown:
        raise UnsupportedModelError(f"{sentence.file}: {_KEY} has {min(unknown)}, which is not supported here")
    sizes = {**common, "truncation": True, **text, **template} if message is not None else {**text, **common}
    strategy, length = sizes.get("truncation", True), sizes.get("max_length")
    if not isinstance(strategy, bool | str) or strategy not in _STRATEGIES:
        raise UnsupportedModelError(f"{sentence.file}: {_KEY}: truncation {strategy!r} is not known")
    over_sides = {**text, **(common if message is None else template)}
    return Processing(
        _STRATEGIES[strategy],
        None if length is None else Fact(_checked(length, sentence, f"{_KEY}: max_length"), sentence.file.name),
        {key: value for key, value in template.items() if key not in _SIZES | _PLAIN},
        sizes.get("padding_side"),
        message,
        _side_lengths(sentence) if over_sides.get("max_length") is None else {},
    )


def _message(sentence: SentenceConfig) -> Mapping[str, Any] | None:
    said = sentence.said.get("modality_config")
    message = said.get("message") if isinstance(said, dict) else None
    return message if message is None or isinstance(message, dict) else {}


def _side_lengths(sentence: SentenceConfig) -> dict[Side, int]:
    said = {side: sentence.said.get(f"{side}_length") for side in _SIDES}
    return {side: _checked(length, sentence, f"{side}_length") for side, length in said.items() if length is not None}


def _checked(length: Any, sentence: SentenceConfig, what: str) -> int:
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise CheckpointError(f"{sentence.file}: {what} must be a whole number, not {length!r}")
    return length
