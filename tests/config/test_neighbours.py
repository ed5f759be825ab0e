"""Names of other libraries get an answer; each piece of advice names what there is."""

import asyncio
import inspect
import re

import pytest

from akidb_mlx import Embedder, EmbedderConfig, HybridEmbedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from akidb_mlx.config.neighbours import _ADVICE, advice
from akidb_mlx.errors import ConfigError
from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker
from llama_index_akidb_mlx import AkiDBMLXEmbedding

CALLS = ("encode", "encode_query", "encode_document", "aencode", "aencode_query", "aencode_document")
CALLS += ("predict", "apredict", "rank", "arank")


@pytest.mark.parametrize("name", sorted(_ADVICE))
def test_each_name_has_an_answer(name):
    for kind in (AkiDBMLXEmbeddings, AkiDBMLXEmbedding, EmbedderConfig):
        known = kind.model_fields
        if name in known:
            continue
        with pytest.raises(ConfigError, match=rf"unknown argument {name}\b") as caught:
            kind(**{"model": "m", name: "x"})
        if advice(name, known):
            assert str(caught.value) == f"unknown argument {name}: {_ADVICE[name]} (docs/coming-from.md)"


@pytest.mark.parametrize("name", sorted(_ADVICE))
def test_advice_names_fields(name):
    own = {*EmbedderConfig.model_fields, *AkiDBMLXEmbeddings.model_fields}
    for word in re.findall(r"\b[a-z]+_[a-z_]+\b", _ADVICE[name]):
        assert word in own
    assert name not in EmbedderConfig.model_fields


def test_advice_that_another_class_has_no_argument_for():
    with pytest.raises(ConfigError, match="unknown argument dimensions;? ?allowed"):
        AkiDBMLXReranker(model="m", dimensions=8)
    with pytest.raises(ConfigError, match="trust_remote_code: leave it out, no code of a checkpoint"):
        AkiDBMLXReranker(model="m", trust_remote_code=True)


@pytest.mark.parametrize("kind", [Embedder, Reranker, SparseEmbedder, MultiVectorEmbedder, HybridEmbedder])
@pytest.mark.parametrize("arguments", [("all-MiniLM-L6-v2",), ("m", None), ()], ids=["name", "two", "none"])
def test_a_class_that_is_called_as_sentence_transformers_is(kind, arguments):
    with pytest.raises(TypeError, match=rf"^models are loaded by {kind.__name__}\.load\("):
        kind(*arguments)


def test_home_folders_are_spelled_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EmbedderConfig(model="~/models/x").model == str(tmp_path / "models" / "x")
    assert EmbedderConfig(model="a~b").model == "a~b"


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:1"])
def test_other_words_for_the_gpu(device):
    with pytest.raises(ConfigError, match=f"device = '{device}' .argument.: should be 'gpu', as Metal and CUDA"):
        EmbedderConfig(device=device)


def called(method, **foreign):
    """The message of a call with a keyword that is none."""
    with pytest.raises(TypeError) as caught:
        done = method(object(), ["a text"], **foreign)
        if inspect.iscoroutine(done):
            asyncio.run(done)
    return str(caught.value)


@pytest.mark.parametrize("kind", [Embedder, Reranker, SparseEmbedder, MultiVectorEmbedder, HybridEmbedder])
def test_a_keyword_of_another_library_in_a_call(kind):
    methods = [getattr(kind, name) for name in dir(kind) if name in CALLS]
    assert len(methods) >= 4
    for method in methods:
        name = method.__qualname__
        batches = f"{name}() has no argument batch_size: leave it out, batches are made by tokens (max_batch_tokens)"
        assert called(method, batch_size=8) == f"{batches} (docs/coming-from.md)"
        assert called(method, xyzzy=1) == f"{name}() has no argument xyzzy"
        assert inspect.iscoroutinefunction(method) == method.__name__.startswith("a")


def test_advice_in_a_call_names_its_own_arguments():
    assert called(Embedder.encode, show_progress_bar=True).endswith("say show_progress (docs/coming-from.md)")
    assert called(Embedder.encode, normalize_embeddings=True).endswith("say normalize (docs/coming-from.md)")
    assert called(Embedder.aencode_query, dimensions=8).endswith("say truncate_dim (docs/coming-from.md)")
    assert "rows are NumPy arrays" in called(Embedder.encode, convert_to_tensor=True)
    assert called(Embedder.encode, promt="q: ") == "Embedder.encode() has no argument promt; did you mean prompt?"
    assert list(inspect.signature(Embedder.encode).parameters)[:3] == ["self", "texts", "prompt_name"]
