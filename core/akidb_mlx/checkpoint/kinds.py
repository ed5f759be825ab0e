"""What kind of model a checkpoint is: each class loads its own and refuses the others by name. No MLX here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.checkpoint.broken_files import refuse_broken_files
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.errors import UnsupportedModelError

__all__ = [
    "Kind",
    "kind_of",
    "refuse_all_but_multi_vector",
    "refuse_all_but_sparse",
    "refuse_embedders",
    "refuse_other_kinds",
]

Kind = Literal["embedder", "reranker", "sparse", "multi_vector"]
_EMBEDDER, _RERANKER, _SPARSE = "SentenceTransformer", "CrossEncoder", "SparseEncoder"
_MULTI_VECTOR = ("MultiVectorEncoder", "ColBERT")  # the latter is PyLate's
# sentence-transformers' class → what its models are.
_KINDS = {
    _EMBEDDER: "an embedding model; load it with akidb_mlx.Embedder",
    _RERANKER: "a reranker (CrossEncoder), which scores pairs of texts; load it with akidb_mlx.Reranker",
    _SPARSE: "a sparse encoder (SparseEncoder), whose rows are as wide as the vocabulary; load it with "
    "akidb_mlx.SparseEmbedder",
    **{
        name: f"a late-interaction model ({name}), which gives a vector per token; load it with "
        "akidb_mlx.MultiVectorEmbedder"
        for name in _MULTI_VECTOR
    },
}
_LATE = "a late-interaction model ({name}), which gives a vector per token; load it with akidb_mlx.MultiVectorEmbedder"
_STANFORD = "HF_ColBERT"
# What PyLate alone writes into config_sentence_transformers.json; its older versions name no class there.
_OF_PYLATE = ("query_prefix", "document_prefix", "do_query_expansion", "attend_to_expansion_tokens")
# End of a class in config.json's `architectures` → the same, where no modules.json says otherwise. An embedder may be
# called ForTokenClassification (gte-multilingual-base, for its sparse weights).
_SCORES = "ForSequenceClassification"
_ARCHITECTURES = {
    _SCORES: "a classifier or reranker ({name}), which scores texts; load a reranker with akidb_mlx.Reranker",
    "ForQuestionAnswering": "a question answerer ({name}), which marks answers; not supported",
    "ColBERT": _LATE,  # HF_ColBERT, Stanford's, too
}


def kind_of(path: Path) -> Kind:
    """What the files of folder `path` say they are; an embedder where they say nothing.

    A language model without sentence-transformers' files counts as an embedder, for most have them left out: whoever
    wants its scores says so by loading it as a reranker.
    """
    if (path / "modules.json").exists():
        kinds: dict[str, Kind] = {
            _RERANKER: "reranker",
            _SPARSE: "sparse",
            **dict.fromkeys(_MULTI_VECTOR, "multi_vector"),
        }
        return kinds.get(_said_class(path), "embedder")
    config = path / "config.json"
    names = _architectures(read_json(config)) if config.exists() else []
    if _STANFORD in names:
        return "multi_vector"
    return "reranker" if names and names[0].endswith(_SCORES) else "embedder"


def refuse_other_kinds(path: Path, config: Mapping[str, Any], *, has_modules: bool) -> None:
    """Raise UnsupportedModelError where the checkpoint in folder `path` was not made to give one vector per text.

    With another class in config_sentence_transformers.json the reference itself leaves modules.json out.
    """
    said = _said_class(path)
    if said != _EMBEDDER:
        raise _refusal(path / _OWN_FILE, _KINDS.get(said, f"a {said}, which is no {_EMBEDDER}"))
    for name in [] if has_modules else _architectures(config):
        for end, what in _ARCHITECTURES.items():
            if name.endswith(end):
                raise _refusal(path / "config.json", what.format(name=name))


def refuse_embedders(path: Path, config: Mapping[str, Any], *, has_modules: bool) -> None:
    """Raise UnsupportedModelError where the checkpoint in folder `path` was not made to score pairs of texts."""
    if has_modules:
        said = _said_class(path)
        if said != _RERANKER:
            raise _refusal(path / _OWN_FILE, _KINDS.get(said, f"a {said}, which is no {_RERANKER}"))
        return
    names = _architectures(config)
    if names and not names[0].endswith((_SCORES, "ForCausalLM")):
        what = next((what for end, what in _ARCHITECTURES.items() if names[0].endswith(end)), None)
        embedder = "{name}, which gives hidden states and no scores; if it is an embedding model, load it with " + (
            "akidb_mlx.Embedder"
        )
        raise _refusal(path / "config.json", (what or embedder).format(name=names[0]))


def refuse_all_but_sparse(path: Path, config: Mapping[str, Any], *, has_modules: bool) -> None:
    """Raise UnsupportedModelError where the checkpoint in folder `path` was not made to give sparse rows.

    A masked language model without sentence-transformers' files is none by itself: the user says so.
    """
    if has_modules:
        said = _said_class(path)
        if said != _SPARSE:
            raise _refusal(path / _OWN_FILE, _KINDS.get(said, f"a {said}, which is no {_SPARSE}"))
        return
    names = _architectures(config)
    if names and not names[0].endswith("ForMaskedLM"):
        other = next((what for end, what in _ARCHITECTURES.items() if names[0].endswith(end)), None)
        plain = "{name}, which has no weight for each word of a vocabulary (ForMaskedLM has); if it is an embedding "
        plain += "model, load it with akidb_mlx.Embedder"
        raise _refusal(path / "config.json", (other or plain).format(name=names[0]))
    if config and not names:
        raise _refusal(path / "config.json", "a model whose architectures are not named, ForMaskedLM among them")


def refuse_all_but_multi_vector(path: Path, config: Mapping[str, Any], *, has_modules: bool) -> None:
    """Raise UnsupportedModelError where the checkpoint in folder `path` was not made to give a vector per token."""
    if has_modules:
        said = _said_class(path)
        if said not in _MULTI_VECTOR:
            what = _KINDS.get(said, f"a {said}, which is no {_MULTI_VECTOR[0]}")
            raise _refusal(path / (_OWN_FILE if (path / _OWN_FILE).exists() else "modules.json"), what)
        return
    names = _architectures(config)
    if _STANFORD not in names:
        known = next((what for end, what in _ARCHITECTURES.items() if names and names[0].endswith(end)), None)
        if known is None or known is _LATE:
            known = (
                "{name}, without the layer that makes vectors of its hidden states (neither sentence-transformers' "
                "modules.json nor Stanford's HF_ColBERT); if it is an embedding model, load it with akidb_mlx.Embedder"
            )
        raise _refusal(path / "config.json", known.format(name=names[0] if names else "a transformer"))


_OWN_FILE = "config_sentence_transformers.json"


def _said_class(path: Path) -> str:
    refuse_broken_files(path)
    file = path / _OWN_FILE
    said = read_json(file) if file.exists() else {}
    if "model_type" not in said and any(key in said for key in _OF_PYLATE):
        return _MULTI_VECTOR[1]
    return str(said.get("model_type", _EMBEDDER))


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _refusal(file: Path, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{file}: this is {what}")
