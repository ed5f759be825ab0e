"""Whether a class of transformers 5 would build just what tokenizer.json holds, by the table. No MLX here."""

from collections.abc import Mapping
from typing import Any

from akidb_mlx.checkpoint.tokenizer_classes import (
    BACKENDS,
    BY_MODEL_TYPE,
    IDLE_SETTINGS,
    KEPT,
    OVERRULED,
    Of,
    TokenizerClass,
)

__all__ = ["class_of", "stands_as_it_is"]

Json = Mapping[str, Any]
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_PARTS = ("model", "normalizer", "pre_tokenizer", "post_processor")
# Vocabulary and merges stay the file's; offsets and dropout change no id that is asked for.
_IDLE = frozenset({"vocab", "merges", "trim_offsets", "dropout"})
# What a file may leave out, or write in two ways.
_UNSAID: Mapping[str, Any] = {
    "byte_fallback": False,
    "ignore_merges": False,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "use_regex": True,
}


def class_of(config: Json, said: Json, *, byte_level: bool) -> str | None:
    """The class that AutoTokenizer takes, by config.json and tokenizer_config.json; None where it is to be asked.

    `byte_level` is whether tokenizer.json has a part of that name.
    """
    kind = config.get("model_type")
    names = [one for one in (said.get("tokenizer_class"), config.get("tokenizer_class")) if one is not None]
    if not isinstance(kind, str) or kind not in BY_MODEL_TYPE or "model_name" in config:
        return None
    if not all(isinstance(name, str) and name for name in names):
        return None
    name = names[0] if names else ""
    registered, named = BY_MODEL_TYPE[kind], name.removesuffix("Fast")
    if named == "LlamaTokenizer" and kind not in OVERRULED and byte_level:
        return "TokenizersBackend"
    if registered and (not named or registered == "TokenizersBackend" or kind in OVERRULED):
        return registered
    return "TokenizersBackend" if not named or name in BACKENDS else named


def stands_as_it_is(kind: TokenizerClass, file: Json, said: Json, special_tokens_map: Json) -> bool:
    """Whether the class builds what the file holds; False also where the table is not sure.

    Args:
        kind: the class.
        file: tokenizer.json.
        said: tokenizer_config.json.
        special_tokens_map: that file; empty where there is none.
    """
    try:
        if "added_tokens_decoder" not in said:
            said = {**said, **{key: _content(token) for key, token in special_tokens_map.items()}}
        values = _values(kind, file, said)
        return values is not None and all(_equal(getattr(kind, part), file.get(part), values) for part in _PARTS)
    except (AttributeError, KeyError, TypeError, ValueError):  # an odd file, or a token that no file names
        return False


def _values(kind: TokenizerClass, file: Json, said: Json) -> dict[Of, Any] | None:
    """What the files decide of the table's parts; None where it is not sure."""
    known = {*IDLE_SETTINGS, *kind.settings, *_NAMED}
    if not known.issuperset(said) or said.get("split_special_tokens", False) is not False:
        return None
    settings = {Of(key): said.get(key, default) for key, default in kind.settings.items()}
    named = _named_tokens(kind, said)
    added = {token["content"]: token for token in file["added_tokens"]}
    odd = any(not isinstance(value, bool) and value is not kind.settings[key.name] for key, value in settings.items())
    if odd or not _tokens_stand(kind, [*named.values(), *_extra_tokens(said)], added, file, said):
        return None
    values: dict[Of, Any] = settings
    for name, content in named.items():
        number = added[content]["id"]
        entry = (content, {"id": content, "ids": [number], "tokens": [content]})
        values |= {Of(name, "content"): content, Of(name, "id"): number, Of(name, "entry"): entry}
    return values


def _named_tokens(kind: TokenizerClass, said: Json) -> dict[str, str]:
    tokens = {name: said[name] if name in said else kind.tokens.get(name) for name in _NAMED}
    if any(isinstance(token, Mapping) and token["__type"] != "AddedToken" for token in tokens.values()):
        raise TypeError("not what a special token is")
    return {name: _content(token) for name, token in tokens.items() if token is not None}


def _content(token: Any) -> Any:
    """A special token's, as a string or an object of its own."""
    return token["content"] if isinstance(token, Mapping) else token


def _extra_tokens(said: Json) -> list[Any]:
    lists = [said.get("additional_special_tokens") or [], said.get("extra_special_tokens") or []]
    if not all(isinstance(tokens, list) for tokens in lists):
        raise TypeError("tokens by names of their own")
    return [token for tokens in lists for token in tokens]


def _tokens_stand(kind: TokenizerClass, special: list[Any], added: Mapping[str, Json], file: Json, said: Json) -> bool:
    """Whether the added tokens come out with the ids and flags that the file has; KeyError where one is missing."""
    stated = said.get("added_tokens_decoder")
    if stated is not None and stated != {str(token["id"]): _flags(token) for token in added.values()}:
        return False
    if len(added) != len(file["added_tokens"]) or not all(added[content]["special"] is True for content in special):
        return False
    if kind.plain_tokens and any(added[content][flag] for content in special for flag in _FLAGS[:4]):
        return False
    return kind.model == KEPT or _ids_follow(added, file["model"]["vocab"])


def _flags(token: Json) -> dict[str, Any]:
    return {name: token[name] for name in ("content", *_FLAGS)}


def _ids_follow(added: Mapping[str, Json], vocab: Any) -> bool:
    """Whether tokens outside the vocabulary are numbered on from its end as they are listed.

    tokenizers numbers them by their place in the list, a class by their stated ids.
    """
    numbers = vocab if isinstance(vocab, Mapping) else {piece: number for number, (piece, _) in enumerate(vocab)}
    after = len(numbers)
    for token in added.values():
        if numbers.get(token["content"], after) != token["id"]:
            return False
        after += token["content"] not in numbers
    return len(numbers) == len(vocab) and "" not in added


def _equal(wanted: Any, found: Any, values: Mapping[Of, Any]) -> bool:
    """Whether a part of the file is what the table says, once `values` stand in it."""
    if wanted == KEPT:
        return True
    if isinstance(wanted, tuple):
        return any(_equal(one, found, values) for one in wanted)
    if isinstance(wanted, Of):
        return _same(values[wanted], found)
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], Of) and wanted[0].what == "entry":
        return bool(found == dict(values[name] for name in wanted))
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(map(lambda a, b: _equal(a, b, values), wanted, found))
        )
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return False
        keys = {*wanted, *found} - _IDLE
        return all(_equal(wanted.get(key), _said(found, key), values) for key in keys)
    return _same(wanted, found)


def _said(part: Json, key: str) -> Any:
    value = part.get(key)
    return _UNSAID.get(key) if value is None else value


def _same(one: Any, other: Any) -> bool:
    """Equal, and no 1 for True."""
    return type(one) is type(other) and bool(one == other)
