"""What kind of model a checkpoint is: embedders are read here, others refused by their name. No MLX here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.errors import UnsupportedModelError

__all__ = ["refuse_other_kinds"]

_EMBEDDER = "SentenceTransformer"
# sentence-transformers' class → what its models are.
_KINDS = {
    "CrossEncoder": "a reranker (CrossEncoder), which scores pairs of texts",
    "SparseEncoder": "a sparse encoder (SparseEncoder), whose vectors are as wide as the vocabulary",
    "MultiVectorEncoder": "a late-interaction model (MultiVectorEncoder), which gives a vector per token",
}
# End of a class in config.json's `architectures` → the same, where no modules.json says otherwise. An embedder may be
# called ForTokenClassification (gte-multilingual-base, for its sparse weights).
_ARCHITECTURES = {
    "ForSequenceClassification": "a classifier or reranker ({name}), which scores texts",
    "ForQuestionAnswering": "a question answerer ({name}), which marks answers",
    "HF_ColBERT": "a late-interaction model ({name}), which gives a vector per token",
    "ColBERT": "a late-interaction model ({name}), which gives a vector per token",
}


def refuse_other_kinds(path: Path, config: Mapping[str, Any], *, has_modules: bool) -> None:
    """Raise UnsupportedModelError where the checkpoint in folder `path` was not made to give one vector per text.

    With another class in config_sentence_transformers.json the reference itself leaves modules.json out.
    """
    file = path / "config_sentence_transformers.json"
    said = read_json(file).get("model_type", _EMBEDDER) if file.exists() else _EMBEDDER
    if said != _EMBEDDER:
        what = _KINDS.get(str(said), f"a {said}, which is no {_EMBEDDER}")
        raise UnsupportedModelError(f"{file}: this is {what}; Embedder loads embedding models only")
    names = config.get("architectures")
    for name in names if isinstance(names, list) and not has_modules else []:
        for end, what in _ARCHITECTURES.items():
            if str(name).endswith(end):
                raise UnsupportedModelError(
                    f"{path / 'config.json'}: this is {what.format(name=name)}; Embedder loads embedding models only"
                )
