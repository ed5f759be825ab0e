"""What transformers makes of a tokenizer's files. A program of its own too: `python ask_transformers.py FOLDER`.

It imports nothing of akidb-mlx, so that a child process starts with transformers alone.
"""

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

__all__ = ["ask"]

# Texts on which the class and its Rust half must agree, else the class does more than the half can say.
_PROBES = ("Tea, and a pot.", " two  spaces \n", "Straße 東京 <s>")

_A, _B = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
# What stands for no post-processor.
_NO_TEMPLATE = {"type": "TemplateProcessing", "single": [_A], "pair": [_A, _B], "special_tokens": {}}


def ask(folder: str) -> dict[str, Any]:
    """The tokenizer of AutoTokenizer in plain values; `error` says why there is none.

    Keys: `class`, `state` (as tokenizer.json; None where it is what the file holds), `differs` (which parts are
    others than the file's), `truncation_side`, `split_special_tokens`, `input_names`.
    """
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return _describe(_load(folder), Path(folder))
    except Exception as error:  # whatever a file of the checkpoint makes transformers raise
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        logger.setLevel(level)


def _load(folder: str) -> Any:
    """AutoTokenizer's, as it reads a folder: no code of the checkpoint's, no network."""
    from transformers import AutoTokenizer

    closed = {"trust_remote_code": False, "local_files_only": True}
    return AutoTokenizer.from_pretrained(folder, config=_config(folder, closed), **closed)


def _config(folder: str, closed: dict[str, Any]) -> Any:
    """The model's, which has a say; where its class is the checkpoint's own code, what config.json says."""
    from transformers import AutoConfig, PreTrainedConfig

    try:
        return AutoConfig.from_pretrained(folder, **closed)
    except (ValueError, OSError, KeyError):
        said = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        config = PreTrainedConfig()
        for name in ("model_type", "tokenizer_class", "model_name"):
            if name in said:
                setattr(config, name, said[name])
        return config


def _describe(tokenizer: Any, folder: Path) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    name = type(tokenizer).__name__
    if backend is None:
        return {"error": f"{name} splits texts in Python, which is not done here"}
    side, split = tokenizer.truncation_side, bool(tokenizer.split_special_tokens)
    for probe in _PROBES:
        if list(tokenizer(probe, verbose=False)["input_ids"]) != _ids(backend, probe, split):
            return {"error": f"{name} does more to a text than its state says"}
    state = _state(backend)
    differs = _differing(state, _file_state(folder / "tokenizer.json"))
    return {
        "class": name,
        "state": state if differs else None,
        "differs": differs,
        "truncation_side": side,
        "split_special_tokens": split,
        "input_names": list(tokenizer.model_input_names),
    }


def _ids(backend: Any, text: str, split_special_tokens: bool) -> list[int]:
    backend.encode_special_tokens = split_special_tokens
    return list(backend.encode(text).ids)


def _state(backend: Any) -> str:
    """A tokenizer as JSON, but for what each call sets anew."""
    backend.no_truncation()
    backend.no_padding()
    return str(backend.to_str())


def _file_state(file: Path) -> str:
    from tokenizers import Tokenizer

    return _state(Tokenizer.from_file(str(file)))


def _differing(one: str, other: str) -> list[str]:
    """The parts in which two tokenizers differ for ids; a decoder is never used."""
    if one == other:
        return []
    left, right = json.loads(one), json.loads(other)
    parts = ("normalizer", "pre_tokenizer", "model", "post_processor", "added_tokens")
    return [part for part in parts if _plain(left[part]) != _plain(right[part])]


def _plain(value: Any) -> Any:
    """A part without what changes no id: where offsets lie, dropout, an empty affix for none."""
    if value == _NO_TEMPLATE:
        return None
    if isinstance(value, dict):
        idle = ("trim_offsets", "dropout")
        affixes = ("continuing_subword_prefix", "end_of_word_suffix")
        return {k: (v or "") if k in affixes else _plain(v) for k, v in value.items() if k not in idle}
    return [_plain(item) for item in value] if isinstance(value, list) and len(value) < 1000 else value


def main() -> None:
    """Answer on standard output, in one line; what imports print goes elsewhere."""
    with contextlib.redirect_stdout(sys.stderr):
        answer = ask(sys.argv[1])
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
