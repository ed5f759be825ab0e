"""Whether a reranker is told which tokens are the second text's. No MLX here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.rebuilt_tokenizer import RebuiltTokenizer
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["gives_token_types"]

_NAME = "token_type_ids"
# Classes of transformers whose model_input_names hold it; asked only where tokenizer.json is taken as it stands.
_WITH_TYPES = frozenset({"BertTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer", "ElectraTokenizer"})
_CLASS_OF = {
    **dict.fromkeys(("bert", "electra", "ernie", "nomic_bert"), "BertTokenizer"),
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
}


def gives_token_types(tokenizer_file: Path, rebuilt: RebuiltTokenizer, config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer gives types of tokens and the model has a table for them.

    Raises:
        UnsupportedModelError: the table has no row for the second text, which ends in an error in the reference.
    """
    file = tokenizer_file.parent / "tokenizer_config.json"
    names = rebuilt.input_names or _names(file, config)
    table = config.get("type_vocab_size")
    if _NAME not in names or not isinstance(table, int) or table == 0:
        return False
    if table < 2:
        raise UnsupportedModelError(
            f"{file}: the tokenizer gives a second text token type 1, but config.json has type_vocab_size {table}"
        )
    return True


def _names(file: Path, config: Mapping[str, Any]) -> list[str] | tuple[str, ...]:
    said = read_json(file) if file.exists() else {}
    names = said.get("model_input_names")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    if names is not None:
        raise CheckpointError(f"{file}: model_input_names must be a list of names, not {names!r}")
    kind = str(said.get("tokenizer_class") or _CLASS_OF.get(config["model_type"])).removesuffix("Fast")
    return (_NAME,) if kind in _WITH_TYPES else ()
