"""The chat template that a checkpoint puts its texts through, as its files say it. No MLX here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.processing import Processing
from akidb_mlx.checkpoint.special_tokens import NAMES, read_special_tokens
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["RENDERED", "ChatTemplate", "find_chat_template"]

RENDERED: Mapping[str, Any] = {"special_tokens": False}
"""Keywords of `Tokenizer` for what a template has rendered: it holds all special tokens."""

# What a template that takes contents as lists of parts holds; as sentence-transformers 6.2 looks for it.
_OF_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
_FLAT_TYPES = frozenset({"apertus", "deepseek_v3", "gpt_oss", "seed_oss"})


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and how it is filled in."""

    text: str
    source: str
    structured: bool
    """Whether a message's content is a list of parts, rather than the text."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further names that the template reads."""
    restore_suffix: bool = True
    """Whether what the template puts last stays when a text is cut."""


def find_chat_template(folder: Path, model_type: str, processing: Processing, *, saved: bool) -> ChatTemplate | None:
    """The template that the reference puts each text through; None where texts go to the tokenizer as they are.

    `saved` by sentence-transformers, a model has one where its file tells of messages; else where the tokenizer in
    `folder` has one.

    Raises:
        UnsupportedModelError: there is none, or several; it asks for a token that the files do not name.
    """
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.exists() else {}
    message = processing.message
    beside = (folder / "chat_template.jinja").exists() or (folder / "additional_chat_templates").is_dir()
    has_one = beside or bool(config.get("chat_template"))
    if message is None and (saved or not has_one):
        return None
    if processing.truncation == "only_second":
        raise UnsupportedModelError(f"{folder}: truncation 'only_second' beside a chat template, which makes one text")
    text, source = _read_text(folder, config)
    arguments = dict(processing.template_arguments)
    restore = arguments.pop("restore_suffix", True)
    return ChatTemplate(
        text,
        source,
        structured=_is_structured(text, model_type, (message or {}).get("format")),
        special_tokens=_special_tokens(folder, config, text),
        arguments=arguments,
        restore_suffix=bool(restore),
    )


def _read_text(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    file = folder / "chat_template.jinja"
    if (folder / "additional_chat_templates").is_dir():
        raise UnsupportedModelError(f"{folder / 'additional_chat_templates'}: which of several chat templates is used?")
    if file.exists():
        try:
            return file.read_text(encoding="utf-8"), file.name
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file} is not UTF-8 ({error}); download it again") from None
    said = config.get("chat_template")
    if isinstance(said, str) and said:
        return said, "tokenizer_config.json"
    reason = "has several chat templates" if said else "has no chat template"
    raise UnsupportedModelError(
        f"{folder} {reason}: this model reads its texts through one, and without it its numbers mean nothing; take a "
        "checkpoint that carries chat_template.jinja"
    )


def _is_structured(text: str, model_type: str, said_format: Any) -> bool:
    if said_format not in (None, "auto", "flat", "structured"):
        raise UnsupportedModelError(f"modality_config: format {said_format!r}; known: flat, structured")
    if said_format in ("flat", "structured"):
        return bool(said_format == "structured")
    return model_type not in _FLAT_TYPES and any(part in text for part in _OF_PARTS)


def _special_tokens(folder: Path, config: Mapping[str, Any], text: str) -> Mapping[str, str]:
    """Those that the template may read; a name that the files leave out has a default there that is unknown here."""
    tokens = read_special_tokens(folder, config)
    for name in NAMES:
        if name not in tokens.said and re.search(rf"\b{name}\b", text):
            raise UnsupportedModelError(
                f"{folder / 'tokenizer_config.json'} does not say {name}, which the chat template reads"
            )
    return tokens.by_name
