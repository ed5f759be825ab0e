"""What sentence-transformers' file says of every call of the tokenizer (`processing_kwargs`). No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.sentence_config import SentenceConfig
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Processing", "read_processing"]

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
    max_length: Fact[int | None] | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    padding_side: Any = None


def read_processing(sentence: SentenceConfig | None) -> Processing:
    """The chat template's own settings win over those for texts, these over the common ones.

    Raises:
        UnsupportedModelError: a key that changes tokens in a way that is not computed here.
    """
    said = sentence.said.get(_KEY) if sentence is not None else None
    if sentence is None or not said:
        return Processing()
    if not isinstance(said, dict) or not all(isinstance(part, dict) for part in said.values()):
        raise CheckpointError(f"{sentence.file}: {_KEY} must be an object of objects, not {said!r}")
    sizes = {**said.get("common", {}), **said.get("text", {})}
    unknown = sizes.keys() - _SIZES - _PLAIN
    if unknown:
        raise UnsupportedModelError(f"{sentence.file}: {_KEY} has {min(unknown)}, which is not supported here")
    template = said.get("chat_template", {})
    sizes |= {key: value for key, value in template.items() if key in _SIZES}
    strategy, length = sizes.get("truncation", True), sizes.get("max_length")
    if not isinstance(strategy, bool | str) or strategy not in _STRATEGIES:
        raise UnsupportedModelError(f"{sentence.file}: {_KEY}: truncation {strategy!r} is not known")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise CheckpointError(f"{sentence.file}: {_KEY}: max_length must be a whole number, not {length!r}")
    return Processing(
        _STRATEGIES[strategy],
        None if length is None else Fact(length, sentence.file.name),
        {key: value for key, value in template.items() if key not in _SIZES | _PLAIN},
        sizes.get("padding_side"),
    )
