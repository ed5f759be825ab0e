"""Every public method's docstring has an example that runs, with MiniLM and tiny models in place of larger ones."""

import asyncio
import contextlib
import doctest
import importlib
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest

import akidb_mlx
from akidb_mlx import (
    HybridEmbedder,
    MultiVectorConfig,
    MultiVectorEmbedder,
    RemoteEmbedder,
    RemoteMultiVectorEmbedder,
    RemoteReranker,
    RemoteSparseEmbedder,
    Reranker,
    RerankerConfig,
    SparseConfig,
    SparseEmbedder,
    recipe,
    small_vectors,
    splitting,
    testing,
)
from support.checkpoints import MINILM, MULTI_VECTOR, SPARSE, TINY_RERANKER
from support.joint import make_joint_folder
from support.packages import needs
from support.serving import serving

CLASSES = [
    getattr(akidb_mlx, name)
    for name in (
        "Embedder",
        "EmbedderConfig",
        "EmbeddingService",
        "HybridEmbedder",
        "MultiVectorEmbedder",
        "MultiVectors",
        "Reranker",
        "SparseEmbedder",
        "SparseRows",
    )
]


@pytest.fixture(scope="module")
def models(minilm, tmp_path_factory):
    folder = make_joint_folder(tmp_path_factory.mktemp("joint"))
    with (
        Reranker.load(TINY_RERANKER) as reranker,
        SparseEmbedder.load(SPARSE / "bert-max") as sparse,
        MultiVectorEmbedder.load(MULTI_VECTOR / "fixed") as multi,
        HybridEmbedder.load(folder) as hybrid,
    ):
        yield {"embedder": minilm, "reranker": reranker, "sparse": sparse, "multi": multi, "hybrid": hybrid}


@pytest.fixture(scope="module")
def server():
    served = {
        "m": MINILM,
        "r": RerankerConfig(model=TINY_RERANKER),
        "s": SparseConfig(model=SPARSE / "bert-max"),
        "l": MultiVectorConfig(model=MULTI_VECTOR / "fixed"),
    }
    with serving(served) as running:
        yield running


def methods(kind):
    """name → (its docstring, the module that it stands in), of ours alone."""
    found = {}
    for base in reversed(kind.__mro__):
        if "akidb_mlx" in base.__module__:
            for name, member in vars(base).items():
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                hidden = name.startswith(("_", "model_post_init")) or not inspect.isfunction(function)
                if not hidden and "akidb_mlx" in inspect.unwrap(function).__module__:
                    found[name] = (inspect.getdoc(function) or "", base.__module__)
    return found


def run_examples(documented, space):
    """Run the example of each; fail where one has none."""
    runner, report = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    for name, (text, module) in documented.items():
        names = {**vars(akidb_mlx), **vars(sys.modules[module]), "asyncio": asyncio, "np": np, "Path": Path, **space}
        example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
        assert example.examples, f"{name} has no example"
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_examples_run(kind, models):
    run_examples(methods(kind), models)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(RemoteEmbedder, "m"), (RemoteReranker, "r"), (RemoteSparseEmbedder, "s"), (RemoteMultiVectorEmbedder, "l")],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_examples_of_the_remote_classes_run(kind, name, models, server):
    """What they share with `RemoteEmbedder` runs with that one."""
    shared = "akidb_mlx.remote.face"
    documented = {
        method: (text.replace("http://127.0.0.1:8000", server.url), module)
        for method, (text, module) in methods(kind).items()
        if module == kind.__module__ or (kind is RemoteEmbedder and module == shared)
    }
    with kind.load(name, base_url=server.url) as remote:
        run_examples(documented, {**models, "remote": remote})


@pytest.mark.parametrize("module", [recipe, small_vectors, splitting], ids=lambda module: module.__name__)
def test_examples_of_functions_run(module, models):
    public = {name: getattr(module, name) for name in module.__all__}
    documented = {
        name: (inspect.getdoc(one), module.__name__) for name, one in public.items() if inspect.isfunction(one)
    }
    for kind in (one for one in public.values() if inspect.isclass(one) and module is splitting):
        documented |= {f"{kind.__name__}.{name}": (text, module.__name__) for name, (text, _) in methods(kind).items()}
    run_examples(documented, models)


ADAPTERS = {
    ("langchain_akidb_mlx", "AkiDBMLXEmbeddings"): ("langchain_core",),
    ("langchain_akidb_mlx", "AkiDBMLXReranker"): ("langchain_core",),
    ("langchain_akidb_mlx.sparse", "AkiDBMLXSparseEmbeddings"): ("langchain_qdrant",),
    ("llama_index_akidb_mlx", "AkiDBMLXEmbedding"): ("llama_index.core",),
    ("llama_index_akidb_mlx", "AkiDBMLXRerank"): ("llama_index.core",),
    ("llama_index_akidb_mlx", "AkiDBMLXSparseEmbedding"): ("llama_index.core",),
}


@pytest.mark.parametrize(("package", "name"), ADAPTERS, ids=lambda one: one)
def test_examples_of_the_adapters_run(package, name):
    """Over fakes and MiniLM; what a base class says of all adapters runs with the first of them that has it."""
    needs(*ADAPTERS[package, name])
    kind = getattr(importlib.import_module(package), name)
    documented = {
        method: (text, module)
        for method, (text, module) in methods(kind).items()
        if method not in ("model", "model_name") and (not module.endswith("adapters.base") or ">>>" in text)
    }
    run_examples(documented, adapters())


def adapters():
    """What the examples call ready adapters."""
    import langchain_akidb_mlx
    import llama_index_akidb_mlx

    sparse = testing.FakeSparseEmbedder()
    found = {
        "embeddings": langchain_akidb_mlx.AkiDBMLXEmbeddings(model=MINILM),
        "compressor": langchain_akidb_mlx.AkiDBMLXReranker(reranker=testing.FakeReranker()),
        "embed_model": llama_index_akidb_mlx.AkiDBMLXEmbedding(model_name=MINILM),
        "sparse_model": llama_index_akidb_mlx.AkiDBMLXSparseEmbedding(embedder=sparse),
    }
    with contextlib.suppress(ImportError):
        from langchain_akidb_mlx.sparse import AkiDBMLXSparseEmbeddings

        found["sparse_embeddings"] = AkiDBMLXSparseEmbeddings(embedder=sparse)
    return {**vars(langchain_akidb_mlx), **found}


def test_examples_of_the_fakes_run():
    run_examples({name: (inspect.getdoc(getattr(testing, name)), testing.__name__) for name in testing.__all__}, {})
