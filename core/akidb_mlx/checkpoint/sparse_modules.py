"""The modules of a sparse encoder: SpladePooling, SparseAutoEncoder, the Router's two ways. No MLX here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.heads import AutoEncoderHead, HeadFacts, PooledHead, SpladeHead
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.modules import OURS, read_head
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.sentence_config import read_sentence_config
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["FIRST_MODULES", "Route", "read_sparse_head", "routes"]

_ROUTER, _STATIC, _POOLING, _ENCODER = "Router", "SparseStaticEmbedding", "SpladePooling", "SparseAutoEncoder"
_TRANSFORMERS = ("Transformer", "MLMTransformer")
FIRST_MODULES = (*_TRANSFORMERS, _ROUTER)
_STRATEGIES: Mapping[str, Literal["max", "sum"]] = {"max": "max", "sum": "sum"}
_ACTIVATIONS: Mapping[str, Literal["relu", "log1p_relu"]] = {"relu": "relu", "log1p_relu": "log1p_relu"}
_SIDES: Mapping[str, Side] = {"query": "query", "document": "document"}
# What the transformer is for → what it hands on, besides which nothing may be named.
_OUTPUTS = {"fill-mask": "logits", "feature-extraction": "last_hidden_state"}

Module = tuple[str, str]
"""(class name, folder)."""


@dataclass(frozen=True)
class Route:
    """Which modules a document and, where it is another way, a query goes through."""

    document: Sequence[Module]
    query: str | None = None
    """The folder of the query's SparseStaticEmbedding."""
    default: Side | None = None
    """The way of a text that is said to be neither."""


def routes(path: Path, modules: Sequence[Module]) -> Route:
    """The ways through the modules of modules.json."""
    if modules[0][0] != _ROUTER:
        return Route(modules)
    if len(modules) > 1:
        raise UnsupportedModelError(f"{path / 'modules.json'}: {modules[1][0]} after a Router is not supported")
    folder = path / modules[0][1]
    file = next((file for file in (folder / "router_config.json", folder / "config.json") if file.exists()), None)
    if file is None:
        raise CheckpointError(f"{folder / 'router_config.json'} is missing; download the checkpoint again")
    said = read_json(file)
    kinds = _kinds(file, read_field(file, said, "types", dict))
    structure = read_field(file, said, "structure", dict)
    if set(structure) != set(_SIDES):
        raise UnsupportedModelError(
            f"{file}: the ways are {', '.join(map(str, structure))}; only query and document are supported"
        )
    prefix = modules[0][1]
    ways = {side: [_place(file, kinds, prefix, name) for name in names] for side, names in structure.items()}
    default = _default_route(file, said.get("parameters") or {}, next(iter(structure)))
    by_model = bool(ways["document"]) and ways["document"][0][0] in _TRANSFORMERS
    if by_model and ways["query"] == ways["document"]:
        return Route(ways["document"])
    if not by_model or [kind for kind, _ in ways["query"]] != [_STATIC]:
        found = "; ".join(f"{side}: {', '.join(kind for kind, _ in way)}" for side, way in ways.items())
        raise UnsupportedModelError(
            f"{file}: {found}. Supported are the same modules for both, or {_STATIC} alone for queries and a "
            f"transformer with {_POOLING} for documents"
        )
    return Route(ways["document"], ways["query"][0][1], default)


def _kinds(file: Path, types: Mapping[str, Any]) -> dict[str, str]:
    for kind in types.values():
        if not str(kind).startswith(OURS):
            raise UnsupportedModelError(f"{file}: {kind} is code of the checkpoint's own, which is never run")
    return {name: str(kind).rsplit(".", 1)[-1] for name, kind in types.items()}


def _place(file: Path, kinds: Mapping[str, str], prefix: str, name: Any) -> Module:
    if name not in kinds or Path(name).is_absolute() or ".." in Path(name).parts:
        raise CheckpointError(f"{file}: `structure` names {name!r}, which is none of `types`, or no folder in here")
    return kinds[name], (Path(prefix) / name).as_posix()


def _default_route(file: Path, parameters: Mapping[str, Any], first: str) -> Side | None:
    if parameters.get("route_mappings"):
        raise UnsupportedModelError(f"{file}: route_mappings {parameters['route_mappings']!r} are not supported")
    default = parameters.get("default_route")
    if default is None and parameters.get("allow_empty_key", True):
        default = first
    if default is not None and default not in _SIDES:
        raise CheckpointError(f"{file}: default_route {default!r} is neither query nor document")
    return None if default is None else _SIDES[default]


def read_sparse_head(
    layout: Layout, modules: Sequence[Module], tokenizer: TokenizerFacts
) -> tuple[Fact[HeadFacts], bool]:
    """What makes a row of the first module's output, and whether pooling takes a prompt's tokens in."""
    kinds = [kind for kind, _ in modules]
    legacy = kinds[0] == "MLMTransformer"
    task = tokenizer.task or ("fill-mask" if legacy else "feature-extraction")
    if kinds[1:] == [_POOLING]:
        _check_task(layout, task, "fill-mask", _POOLING)
        return _read_splade(layout, modules[1][1]), True
    if kinds[-1] == _ENCODER and not legacy:
        _check_task(layout, task, "feature-extraction", _ENCODER)
        return _read_auto_encoder(layout, modules)
    after = ", ".join(kinds[1:]) or "nothing"
    raise UnsupportedModelError(
        f"{layout.path / 'modules.json'}: {after} after the transformer; a sparse encoder has {_POOLING}, or Pooling "
        f"and {_ENCODER}"
    )


def _check_task(layout: Layout, task: str, wanted: str, module: str) -> None:
    sentence = read_sentence_config(layout.folder, scores=True)
    said = {} if sentence is None else sentence.said
    where = layout.folder if sentence is None else sentence.file
    if task != wanted:
        raise UnsupportedModelError(f"{where}: transformer_task is {task!r}, but {module} takes what {wanted!r} gives")
    usual = {"method": "forward", "method_output_name": _OUTPUTS[wanted]}
    modalities = said.get("modality_config") or {"text": usual}
    if modalities != {"text": usual}:
        raise UnsupportedModelError(f"{where}: modality_config {modalities!r}; supported is { ({'text': usual})!r}")
    if said.get("module_output_name") not in (None, "token_embeddings"):
        raise UnsupportedModelError(
            f"{where}: module_output_name {said['module_output_name']!r}; supported is token_embeddings"
        )


def _read_splade(layout: Layout, folder: str) -> Fact[HeadFacts]:
    file = layout.path / folder / "config.json"
    said = read_json(file)
    unknown = said.keys() - {"pooling_strategy", "activation_function", "embedding_dimension"}
    unknown -= {"word_embedding_dimension", "chunk_size"}
    if unknown:
        raise UnsupportedModelError(f"{file}: {min(unknown)} is not known")
    strategy, activation = said.get("pooling_strategy", "max"), said.get("activation_function", "relu")
    if strategy not in _STRATEGIES:
        raise UnsupportedModelError(f"{file}: pooling_strategy {strategy!r} is not known; known: max, sum")
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(f"{file}: activation_function {activation!r} is not known; known: relu, log1p_relu")
    head = SpladeHead(_STRATEGIES[strategy], _ACTIVATIONS[activation])
    return Fact(head, file.relative_to(layout.path).as_posix())


def _read_auto_encoder(layout: Layout, modules: Sequence[Module]) -> tuple[Fact[HeadFacts], bool]:
    head = read_head(layout.path, list(modules[:-1]))
    if head.pooling is None or head.left_out or (head.normalize is not None and head.normalize.value):
        what = "Normalize before it" if not head.left_out and head.pooling is not None else "no Pooling before it"
        raise UnsupportedModelError(f"{layout.path / 'modules.json'}: {_ENCODER} with {what} is not supported")
    folder = layout.path / modules[-1][1]
    file = folder / "config.json"
    said = read_json(file)
    unknown = said.keys() - {"input_dim", "hidden_dim", "k", "k_aux", "normalize", "dead_threshold"}
    if unknown:
        raise UnsupportedModelError(f"{file}: {min(unknown)} is not known")
    weights = next((one for one in (folder / "model.safetensors", folder / "pytorch_model.bin") if one.exists()), None)
    if weights is None:
        raise CheckpointError(f"{folder / 'model.safetensors'} is missing: this checkpoint's {_ENCODER} has no weights")
    pooled = PooledHead(head.pooling.value, () if head.dense is None else head.dense.value)
    taken, given = read_field(file, said, "input_dim", int), read_field(file, said, "hidden_dim", int, 512)
    k = read_field(file, said, "k", int, 8)
    if min(taken, k) < 1 or k > given:
        raise CheckpointError(f"{file}: input_dim {taken}, hidden_dim {given} and k {k} make no model")
    facts = AutoEncoderHead(pooled, taken, given, k, read_field(file, said, "normalize", bool, False), weights)
    return Fact(facts, file.relative_to(layout.path).as_posix()), head.include_prompt
