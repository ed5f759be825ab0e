"""Models for MTEB (`mteb` 2.26, which brings torch; neither is a dependency of ours): scores on anybody's texts.

`mteb.evaluate(mteb_model(embedder), tasks)`. Neither package is imported before MTEB itself asks for what is theirs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError, InputError
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.sparse_embedder import SparseEmbedder
from akidb_mlx.sparse_rows import SparseRows
from akidb_mlx.vectors import Embeddings

__all__ = ["MtebDense", "MtebMultiVector", "MtebSparse", "mteb_model"]

F = TypeVar("F", Embedder, SparseEmbedder, MultiVectorEmbedder)
Batches = Iterable[Mapping[str, Any]]
"""MTEB's DataLoader, or any other iterable of batches: `{"text": [...]}`, with whatever else, which is not read."""


def mteb_model(
    embedder: Embedder | SparseEmbedder | MultiVectorEmbedder, name: str | None = None
) -> "MtebDense | MtebSparse | MtebMultiVector":
    """What MTEB's `evaluate` takes for an embedder; `name` ("organization/model") is what its tables call it.

    Raises:
        TypeError: anything but these three; of a `HybridEmbedder` take its `dense`, `sparse` or `multi`.
        ConfigError: a name without an organization.
    """
    if isinstance(embedder, Embedder):
        return MtebDense(embedder, name)
    if isinstance(embedder, SparseEmbedder):
        return MtebSparse(embedder, name)
    if isinstance(embedder, MultiVectorEmbedder):
        return MtebMultiVector(embedder, name)
    raise TypeError(f"MTEB scores an Embedder, a SparseEmbedder or a MultiVectorEmbedder, not a {_kind(embedder)}")


class _Mteb(Generic[F]):
    """What the three have in common: the prompt that a task's texts get, and what MTEB files the scores under."""

    _model_type: str

    def __init__(self, embedder: F, name: str | None = None) -> None:
        """Use `mteb_model` instead."""
        facts = embedder.info()
        self.embedder: F = embedder
        self.name = name or "akidb-mlx/" + re.sub(r"[^\w.-]+", "-", facts["model_name"].rstrip("/").split("/")[-1])
        if not re.fullmatch(r"[^/]+/[^/]+", self.name):
            raise ConfigError(f'name is {self.name!r}; MTEB wants "organization/model"')
        self._facts = facts
        # Embedders with a task's prompt as that of a side; they share the model.
        self._prompted: dict[tuple[Side, str], F] = {}

    @property
    def revision(self) -> str:
        """The fingerprint with the dtype that is computed in and the similarity: MTEB keeps scores by name and this.

        So no two settings of one model get one another's scores.
        """
        return f"{self.embedder.fingerprint}-{self._facts['dtype']}-{self._facts['similarity']}"

    @property
    def mteb_model_meta(self) -> Any:
        """MTEB's `ModelMeta`.

        Raises:
            ConfigError: mteb is not installed.
        """
        try:
            from mteb.models import ModelMeta
            from mteb.models.model_meta import ScoringFunction
        except ImportError as missing:
            raise ConfigError(f'scores by MTEB need mteb: pip install "mteb>=2.26,<3" ({missing})') from None
        known = {"cosine": "COSINE", "dot": "DOT_PRODUCT", "euclidean": "EUCLIDEAN", "manhattan": "MANHATTAN"}
        scoring = {**known, "maxsim": "MAX_SIM"}.get(self._facts["similarity"], "CUSTOM")
        return ModelMeta.create_empty(
            {
                "name": self.name,
                "revision": self.revision,
                "max_tokens": self.embedder.max_seq_length,
                "embed_dim": self.embedder.dimension,
                "similarity_fn_name": ScoringFunction[scoring],
                "model_type": [self._model_type],
            }
        )

    def _rows(self, inputs: Batches, task: Any, prompt_type: Any, options: Mapping[str, Any]) -> list[Any]:
        """Chunks of rows of all texts, in order; an empty list for no texts.

        Read whole beforehand, as MTEB's own wrappers do: a DataLoader may belong to its thread.
        """
        _refuse_unknown(options)
        texts = list(chain.from_iterable(_texts(batch) for batch in inputs))
        side = _side(prompt_type)
        name = self._task_prompt(task, side)
        if side is None:
            return list(self.embedder.encode_stream(texts, prompt_name=name))
        return list(self._for(side, name).encode_stream(texts, side=side))

    def _task_prompt(self, task: Any, side: Side | None) -> str | None:
        """Name of the model's prompt for a task, in MTEB's order; None for the side's own, or the default.

        What the user set as the prompt of a side holds for every task.
        """
        if side is not None and getattr(self.embedder.config, f"{side}_prompt") is not None:
            return None
        for what in (task.name, task.type):
            for name in ([] if side is None else [f"{what}-{side}"]) + [what]:
                if name in self._facts["prompts"]:
                    return str(name)
        return None

    def _for(self, side: Side, name: str | None) -> F:
        if name is None:
            return self.embedder
        if (side, name) not in self._prompted:
            config: Any = self.embedder.config.with_changes(**{f"{side}_prompt": self._facts["prompts"][name]})
            self._prompted[side, name] = type(self.embedder).load(config)
        prompted: F = self._prompted[side, name]
        return prompted


class MtebDense(_Mteb[Embedder]):
    """MTEB's EncoderProtocol for an `Embedder`."""

    _model_type = "dense"

    def encode(
        self,
        inputs: Batches,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **options: Any,
    ) -> Embeddings:
        """(n, dimension) float32 of all texts. `prompt_type` is query, document or None; batches are the engine's own.

        Raises:
            InputError: a batch without texts, an option that is not known, a text that cannot be embedded.
        """
        rows = self._rows(inputs, task_metadata, prompt_type, options)
        return np.concatenate(rows) if rows else self.embedder.encode([])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n, m) torch tensor, by the model's similarity function."""
        return _tensor(self.embedder.similarity(np.asarray(embeddings1), np.asarray(embeddings2)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n,) torch tensor of pairs."""
        return _tensor(self.embedder.similarity_pairwise(np.asarray(embeddings1), np.asarray(embeddings2)))


class MtebSparse(_Mteb[SparseEmbedder]):
    """MTEB's EncoderProtocol for a `SparseEmbedder`."""

    _model_type = "sparse"

    def encode(
        self,
        inputs: Batches,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **options: Any,
    ) -> Any:
        """(n, dimension) float32: a sparse COO tensor for a retrieval, else dense, which MTEB's other tasks need.

        Otherwise as `MtebDense.encode`.
        """
        chunks = self._rows(inputs, task_metadata, prompt_type, options)
        rows = SparseRows.concatenate(chunks) if chunks else SparseRows.of([], self.embedder.dimension)
        retrieval = task_metadata.simplified_task_type == "retrieval" and "Reranking" not in task_metadata.type
        return _coordinates(rows) if retrieval else rows.to_dense()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n, m) torch tensor, by the model's similarity function."""
        return _tensor(self.embedder.similarity(_sparse_rows(embeddings1), _sparse_rows(embeddings2)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n,) torch tensor of pairs."""
        return _tensor(self.embedder.similarity_pairwise(_sparse_rows(embeddings1), _sparse_rows(embeddings2)))


class MtebMultiVector(_Mteb[MultiVectorEmbedder]):
    """MTEB's SearchProtocol for a `MultiVectorEmbedder`: retrievals and rerankings, the tasks that it can do."""

    _model_type = "late-interaction"

    def index(self, corpus: Any, **options: Any) -> None:
        """Take a corpus; its texts are embedded by `search`, a part at a time."""
        self._search = self._searcher()
        self._search.index(corpus, **options)

    def search(self, queries: Any, **options: Any) -> Any:
        """{query: {document: score}} of the best documents, by MaxSim."""
        return self._search.search(queries, **options)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n, m) torch tensor of queries against documents, each (tokens, dimension)."""
        queries, documents = ([np.asarray(row) for row in side] for side in (embeddings1, embeddings2))
        return _tensor(self.embedder.similarity(queries, documents))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n,) torch tensor of pairs."""
        queries, documents = ([np.asarray(row) for row in side] for side in (embeddings1, embeddings2))
        return _tensor(self.embedder.similarity_pairwise(queries, documents))

    def _encode(
        self,
        inputs: Batches,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **options: Any,
    ) -> list[Any]:
        """(tokens, dimension) of each text."""
        chunks = self._rows(inputs, task_metadata, prompt_type, options)
        return list(MultiVectors.concatenate(chunks)) if chunks else []

    def _searcher(self) -> Any:
        from mteb.models import SearchEncoderWrapper

        return SearchEncoderWrapper(_AsEncoder(self))  # type: ignore[arg-type,unused-ignore]


class _AsEncoder:
    """A late-interaction model as the encoder that it must not look like from outside, or MTEB would try all tasks."""

    def __init__(self, model: MtebMultiVector) -> None:
        self.encode = model._encode
        self.similarity = model.similarity
        self.similarity_pairwise = model.similarity_pairwise
        self.mteb_model_meta = model.mteb_model_meta


def _texts(batch: Mapping[str, Any]) -> Sequence[str]:
    if "text" not in batch:
        raise InputError(f"a batch has no texts but {', '.join(map(str, batch)) or 'nothing'}; only texts are embedded")
    texts: Sequence[str] = batch["text"]
    if isinstance(texts, str):
        raise TypeError("a batch's text must be a list of str, not a str")
    return texts


def _side(prompt_type: Any) -> Side | None:
    side = getattr(prompt_type, "value", prompt_type)
    if side not in ("query", "document", None):
        raise InputError(f"prompt_type is {side!r}; it is query, document or None")
    known: Side | None = side
    return known


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """What MTEB says of a batch is the engine's business; anything that would change rows is not taken."""
    unknown = options.keys() - {"batch_size", "show_progress_bar", "precision"}
    if unknown:
        raise InputError(f"encode_kwargs has {', '.join(sorted(unknown))}; set it where the embedder is loaded")
    if options.get("precision", "float32") != "float32":
        raise InputError(f"precision is {options['precision']!r}; the rows are float32")


def _kind(value: object) -> str:
    return type(value).__name__


def _tensor(scores: Embeddings) -> Any:
    """As a torch tensor: MTEB takes one number out of a (1, 1) matrix, which NumPy will not allow for long."""
    import torch

    return torch.from_numpy(scores)


def _coordinates(rows: SparseRows) -> Any:
    import torch

    lines = np.repeat(np.arange(len(rows), dtype=np.int64), np.diff(rows.indptr))
    places = torch.from_numpy(np.stack([lines, rows.indices.astype(np.int64)]))
    shape = (len(rows), rows.dimension)
    values = torch.from_numpy(rows.values)
    return torch.sparse_coo_tensor(places, values, shape, is_coalesced=True, check_invariants=True)


def _sparse_rows(embeddings: Any) -> SparseRows:
    """Sparse or dense, a tensor or an array, rows or one of them."""
    if getattr(embeddings, "is_sparse", False):
        embeddings = embeddings.coalesce()
        (lines, places), values = embeddings.indices().numpy(), embeddings.values().numpy()
        indptr = np.searchsorted(lines, np.arange(embeddings.shape[0] + 1)).astype(np.int64)
        return SparseRows(indptr, places.astype(np.int32), values, int(embeddings.shape[1]))
    dense = np.atleast_2d(np.asarray(embeddings, np.float32))
    rows = [(np.flatnonzero(row).astype(np.int32), row[np.flatnonzero(row)]) for row in dense]
    return SparseRows.of(rows, dense.shape[1])
