"""The special tokens that a tokenizer's files name, as transformers 5 reads them. No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.json_file import read_json

__all__ = ["NAMES", "SpecialTokens", "named_token", "read_special_tokens"]

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class SpecialTokens:
    """What the files say; a name that they leave out may have a default of the class."""

    by_name: Mapping[str, str]
    """Those of `NAMES` that are no null, and names of the model's own."""
    said: frozenset[str]
    """Names that the files say, nulls too."""
    unnamed: frozenset[str]
    """Further ones in a list."""

    @property
    def contents(self) -> frozenset[str]:
        """All of them."""
        return self.unnamed | frozenset(self.by_name.values())


def read_special_tokens(folder: Path, config: Mapping[str, Any]) -> SpecialTokens:
    """What `config`, the tokenizer_config.json in `folder`, says and the map beside it.

    The map is not read where tokenizer_config.json lists the added tokens.
    """
    file = folder / "special_tokens_map.json"
    reads_map = file.exists() and "added_tokens_decoder" not in config
    said = {**config, **(read_json(file) if reads_map else {})}
    own: dict[str, str] = {}
    unnamed: set[str] = set()
    for key in _LISTS:
        if isinstance(said.get(key), Mapping):
            own |= {name: _content(token) for name, token in said[key].items()}
        elif isinstance(said.get(key), list):
            unnamed |= {_content(token) for token in said[key]}
    named = {name: _content(said[name]) for name in NAMES if said.get(name) is not None}
    return SpecialTokens({**own, **named}, frozenset(name for name in NAMES if name in said), frozenset(unnamed))


def named_token(special: SpecialTokens, name: str, defaults: Mapping[str, str] | None) -> str | None:
    """The token called `name`, by the files, else of the class with these `defaults`; None where there is none.

    Raises:
        LookupError: the files leave it out, and `defaults` is None: the class's are not known.
    """
    if name in special.said:
        return special.by_name.get(name)
    if defaults is None:
        raise LookupError(name)
    return defaults.get(name)


def _content(token: Any) -> str:
    """A token, as a string or an object of its own."""
    return str(token.get("content") or "") if isinstance(token, Mapping) else str(token)
