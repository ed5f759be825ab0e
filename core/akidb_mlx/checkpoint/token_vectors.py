"""What makes a row per token, by its three publishers' files: modules, expansion, markers, what is left out. No MLX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.checkpoint.heads import Dense, TokenVectorsHead
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.late_interaction import (
    PUNCTUATION,
    Expansion,
    Skiplist,
    TokenPooling,
    read_expansion,
    read_length,
    read_pylate_settings,
    read_skiplist,
    read_stanford,
    read_token_pooling,
)
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.modules import read_dense, read_usage
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.checkpoint.sentence_config import SentenceConfig, read_sentence_config
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["OWN_KEYS", "Said", "read_native", "read_pylate", "read_stanford_layout"]

OWN_KEYS = ("query_expansion",)
"""What is read here of sentence-transformers' file for the transformer."""
_TOKENS = "token_embeddings"
_KNOWN = "Transformer, Dense, MultiVectorMask, Normalize, HierarchicalTokenPooling, Dropout"
_SIZES = ("max_length", "truncation", "padding")
Modules = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Said:
    """The fields are `MultiVectorCheckpoint`'s."""

    written_by: Literal["sentence-transformers", "PyLate", "Stanford"]
    head: TokenVectorsHead
    expansion: Expansion | None
    skiplist: Skiplist
    token_pooling: TokenPooling | None
    side_lengths: Mapping[Side, int]
    prompts: Mapping[str, str]
    markers: tuple[str, ...]
    """What the tokenizer is to take as one token, where it knows it."""
    sources: Mapping[str, str]
    default_prompt_name: str | None = None
    similarity: Literal["maxsim", "meanmaxsim"] = "maxsim"


@dataclass
class _Chain:
    """What the modules after the transformer say."""

    dense: list[Dense] = field(default_factory=list)
    normalize: str | None = None
    skiplist: Skiplist | None = None
    token_pooling: TokenPooling | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def head(self) -> TokenVectorsHead:
        return TokenVectorsHead(tuple(self.dense), self.normalize is not None)


def read_native(layout: Layout, modules: Modules, config: Mapping[str, Any]) -> Said:
    """A save of sentence-transformers itself."""
    chain = _read_chain(layout.path, modules)
    settings = _Settings.of(layout, config)
    if settings.expansion is not None and chain.skiplist is None:
        raise UnsupportedModelError(
            f"{layout.path / 'modules.json'}: queries are made longer, but there is no MultiVectorMask, without which "
            "the reference leaves the added tokens out; add the module, or take query_expansion out"
        )
    return _put_together("sentence-transformers", layout, config, chain, settings)


def read_pylate(layout: Layout, modules: Modules, config: Mapping[str, Any]) -> Said:
    """A save of PyLate, whose own code leaves tokens out and scales rows; older ones name no class."""
    file = layout.path / "modules.json"
    names = [name for name, _ in modules[1:]]
    if not names or set(names) != {"Dense"}:
        raise UnsupportedModelError(
            f"{file}: {', '.join(names) or 'nothing'} after the transformer, where PyLate has Dense alone"
        )
    chain = _read_chain(layout.path, modules, older="model_type" not in config)
    words = config.get("skiplist_words")
    if words is None:
        has_markers = "query_prefix" in config or "document_prefix" in config
        words = list(PUNCTUATION) if "model_type" in config or has_markers else []
    chain.skiplist = read_skiplist(layout.path / _OWN, {"skiplist_words": words})
    chain.normalize = "PyLate's own code"
    chain.sources |= {"skiplist": _OWN if "skiplist_words" in config else "default of PyLate"}
    chain.sources |= {"normalize": "PyLate's own code"}
    return _put_together("PyLate", layout, config, chain, _Settings.of(layout, config))


def read_stanford_layout(layout: Layout) -> Said:
    """Stanford's: the projection lies beside the transformer's weights, the settings in `artifact.metadata`."""
    headers = [read_header(file) for file in layout.weight_files]
    tensor = next((header["linear.weight"] for header in headers if "linear.weight" in header), None)
    if tensor is None or len(tensor["shape"]) != 2:
        raise CheckpointError(
            f"{layout.weight_files[0]} lacks linear.weight, which makes vectors of an HF_ColBERT's hidden states"
        )
    out, given = tensor["shape"]
    metadata = layout.path / "artifact.metadata"
    said = read_stanford(metadata)
    source = metadata.name if metadata.exists() else "default of Stanford's ColBERT"
    markers: Mapping[str, str] = said["markers"]
    lengths: dict[Side, int] = {} if said["document_length"] is None else {"document": said["document_length"]}
    dense = Dense("linear", given, out, bias=False, activation="identity")
    return Said(
        written_by="Stanford",
        head=TokenVectorsHead((dense,), normalize=True),
        expansion=said["expansion"],
        skiplist=said["skiplist"],
        token_pooling=None,
        side_lengths=lengths,
        prompts={side: f"{marker} " for side, marker in markers.items()},
        markers=tuple(f"{marker} " for marker in markers.values()),
        sources={
            "dense": layout.relative(layout.weight_files[0]),
            "normalize": "Stanford's own code",
            **dict.fromkeys(("expansion", "skiplist", "side_lengths", "prompts"), source),
        },
    )


_OWN = "config_sentence_transformers.json"


@dataclass(frozen=True)
class _Settings:
    """Lengths and expansion, by sentence-transformers' file for the transformer, else by PyLate's keys."""

    expansion: Expansion | None
    side_lengths: Mapping[Side, int]
    sources: Mapping[str, str]

    @classmethod
    def of(cls, layout: Layout, config: Mapping[str, Any]) -> "_Settings":
        sentence = read_sentence_config(layout.folder, further=OWN_KEYS)
        top = read_pylate_settings(layout.path / _OWN, config)
        sources: dict[str, str] = {}

        def said(key: str) -> tuple[Path, Any]:
            if sentence is not None and key in sentence.said:
                sources[key] = layout.relative(sentence.file)
                return sentence.file, sentence.said[key]
            if key in top:
                sources[key] = _OWN
            return layout.path / _OWN, top.get(key)

        expansion = read_expansion(*said("query_expansion"))
        lengths: dict[Side, int] = {}
        for side in _sides():
            file, value = said(f"{side}_length")
            length = read_length(file, {f"{side}_length": value}, f"{side}_length")
            if length is not None:
                lengths[side] = length
        sizes = _call_sizes(sentence)
        if sizes and expansion is not None:
            raise UnsupportedModelError(
                f"{layout.folder}: processing_kwargs sets {min(sizes)}, and queries are made longer; which of the two "
                "counts depends on the reference's batch. Take it out"
            )
        found = {"expansion": sources.get("query_expansion")}
        found["side_lengths"] = sources.get("document_length") or sources.get("query_length")
        # A limit for each call comes before them.
        kept = {} if "max_length" in sizes else lengths
        return cls(expansion, kept, {name: source for name, source in found.items() if source})


def _sides() -> tuple[Side, ...]:
    return ("query", "document")


def _call_sizes(sentence: SentenceConfig | None) -> set[str]:
    """Which sizes hold for each call of the tokenizer."""
    said = sentence.said.get("processing_kwargs") if sentence is not None else None
    parts = [said.get(key) for key in ("common", "text")] if isinstance(said, dict) else []
    return {key for part in parts if isinstance(part, dict) for key in part if key in _SIZES}


def _put_together(
    written_by: Literal["sentence-transformers", "PyLate"],
    layout: Layout,
    config: Mapping[str, Any],
    chain: _Chain,
    settings: _Settings,
) -> Said:
    if not chain.dense and chain.normalize is None and chain.skiplist is None:
        raise UnsupportedModelError(
            f"{layout.path / 'modules.json'}: no module makes vectors of the tokens' hidden states; known: {_KNOWN}"
        )
    usage = read_usage(layout.path, None)
    prompts, markers = _prompts(layout.path / _OWN, config, {} if usage.prompts is None else usage.prompts.value)
    # Another function, which is one of single vectors, is not read.
    similarity = usage.similarity.value if usage.similarity is not None else None
    return Said(
        written_by=written_by,
        head=chain.head(),
        expansion=settings.expansion,
        skiplist=chain.skiplist or Skiplist(),
        token_pooling=chain.token_pooling,
        side_lengths=settings.side_lengths,
        prompts=prompts,
        markers=markers,
        default_prompt_name=usage.default_prompt_name,
        similarity="meanmaxsim" if similarity == "meanmaxsim" else "maxsim",
        sources={
            "dense": ", ".join(layer.name for layer in chain.dense) or "modules.json",
            "prompts": _OWN,
            "similarity": _OWN if similarity in ("maxsim", "meanmaxsim") else "default",
            **chain.sources,
            **settings.sources,
        },
    )


def _prompts(file: Path, config: Mapping[str, Any], saved: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The prompts, PyLate's prefixes before them; and those prefixes."""
    prompts, markers = dict(saved), []
    for side in _sides():
        key = f"{side}_prefix"
        if key not in config:
            continue
        prefix = config[key] or ""
        if not isinstance(prefix, str):
            raise CheckpointError(f"{file}: {key} must be a text, not {prefix!r}")
        prompts[side] = prefix + prompts.get(side, "").removeprefix(prefix)
        markers.append(prefix)
    return prompts, tuple(marker for marker in markers if marker.split())


def _read_chain(path: Path, modules: Modules, *, older: bool = False) -> _Chain:
    chain, file = _Chain(), path / "modules.json"
    for kind, folder in modules[1:]:
        if chain.token_pooling is not None:
            raise UnsupportedModelError(f"{file}: {kind} follows HierarchicalTokenPooling, which must come last")
        source = path / folder / "config.json"
        if kind == "Dense" and chain.normalize is None:
            given = _redirected(source) if older else _TOKENS
            chain.dense.append(
                read_dense(path / folder, path / modules[0][1], f"dense.{len(chain.dense)}", given=given, output=given)
            )
        elif kind == "Normalize":
            _check_normalize(source)
            chain.normalize = folder
            chain.sources["normalize"] = source.relative_to(path).as_posix()
        elif kind == "MultiVectorMask" and chain.skiplist is None:
            chain.skiplist = read_skiplist(source, read_json(source))
            chain.sources["skiplist"] = source.relative_to(path).as_posix()
        elif kind == "HierarchicalTokenPooling":
            chain.token_pooling = read_token_pooling(source, read_json(source))
            chain.sources["token_pooling"] = source.relative_to(path).as_posix()
        elif kind != "Dropout":  # which does nothing outside training
            after = " after Normalize" if kind == "Dense" else " a second time" if kind == "MultiVectorMask" else ""
            raise UnsupportedModelError(
                f"{file}: module {kind} ({folder or '.'}){after} is not supported here; known: {_KNOWN}"
            )
    return chain


def _redirected(file: Path) -> str:
    """The entry that a layer of a save without a class reads: the reference lets it read tokens, whatever it names."""
    named = read_json(file).get("module_input_name") if file.exists() else None
    return "sentence_embedding" if named == "sentence_embedding" else _TOKENS


def _check_normalize(file: Path) -> None:
    config = read_json(file) if file.is_file() else {}
    given = config.get("module_input_name") or "sentence_embedding"
    if given != _TOKENS or config.get("module_output_name") not in (None, _TOKENS):
        raise UnsupportedModelError(
            f"{file}: Normalize reads {given}, where a late-interaction model has only {_TOKENS}: it would do nothing. "
            f'Set module_input_name to "{_TOKENS}", or take the module out of modules.json'
        )
