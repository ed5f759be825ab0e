"""sentence-transformers' file for the transformer (`sentence_bert_config.json`), every key of it. No MLX here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.errors import UnsupportedModelError

__all__ = ["SentenceConfig", "read_sentence_config"]

# In the order in which the reference looks for them; it takes the first that says anything.
_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_NAMES = tuple(f"sentence_{kind}_config.json" for kind in _KINDS)
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
# What a model may take too; its texts are computed as if it did not.
_BESIDE_TEXTS = frozenset({"audio", "image", "text", "video"})
# Key → the values under which rows are those that are computed here.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "module_input_name": (),
    "query_expansion": (),
}
# Arguments of its calls → those that change nothing; it ignores trust_remote_code there.
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("model_args", "model_kwargs"), ("trust_remote_code", "attn_implementation", "add_pooling_layer")),
    **dict.fromkeys(("config_args", "config_kwargs"), ("trust_remote_code",)),
    **dict.fromkeys(("tokenizer_args", "processor_kwargs"), ("trust_remote_code",)),
}
# Read elsewhere.
_OTHERS = (
    "cache_dir",
    "max_seq_length",
    "do_lower_case",
    "unpad_inputs",
    "processing_kwargs",
    "query_length",
    "document_length",
)
_OF_RERANKERS = ("transformer_task", "modality_config", "module_output_name")


@dataclass(frozen=True)
class SentenceConfig:
    """What it says."""

    file: Path
    do_lower_case: bool = False
    max_seq_length: int | None = None
    task: str | None = None
    said: Mapping[str, Any] = field(default_factory=dict)


def read_sentence_config(folder: Path, *, scores: bool = False, further: Collection[str] = ()) -> SentenceConfig | None:
    """The file of the transformer in `folder`, None where there is none or it is empty.

    `further`: keys that the caller accounts for.

    Raises:
        UnsupportedModelError: it says what is not computed here, such as images or the expansion of queries.
    """
    for name in _NAMES:
        file = folder / name
        said = read_json(file) if file.exists() else {}
        if said:
            others = {*further, *(_OF_RERANKERS if scores else ())}
            _account_for(file, {key: value for key, value in said.items() if key not in others})
            length = read_field(file, said, "max_seq_length", int) if said.get("max_seq_length") is not None else None
            task = read_field(file, said, "transformer_task", str) if said.get("transformer_task") is not None else None
            return SentenceConfig(file, _flag(file, said, "do_lower_case"), length, task, said)
    return None


def _flag(file: Path, said: Mapping[str, Any], key: str) -> bool:
    """A switch, of which a null is off."""
    return said.get(key) is not None and read_field(file, said, key, bool, False)


def _account_for(file: Path, said: Mapping[str, Any]) -> None:
    for key, value in said.items():
        if key == "modality_config" and _is_of_texts(value):
            continue
        if value is None or key in _OTHERS or value in _PLAIN.get(key, ()):
            continue
        if key in _ARGUMENTS and isinstance(value, dict):
            changing = {
                name: one for name, one in value.items() if name not in _ARGUMENTS[key] and one not in (None, {})
            }
            if not changing:
                continue
            value = changing
        raise UnsupportedModelError(f"{file}: {key} is {value!r}, which changes vectors and is not supported here")


def _is_of_texts(modalities: Any) -> bool:
    """Whether it tells of texts, plain or as messages of a chat, and of hidden states; images or sounds beside them."""
    if not isinstance(modalities, dict):
        return False
    texts = [said for name, said in modalities.items() if name in ("text", "message")]
    others = {part for name in modalities.keys() - {"text", "message"} for part in name.split("+")}
    return (
        bool(texts or not modalities)
        and others <= _BESIDE_TEXTS
        and all({**said, "format": None} == {**_FORWARD, "format": None} for said in texts)
    )
