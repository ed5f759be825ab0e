"""Every public method's docstring has an example that runs, with MiniLM and tiny models in place of larger ones."""

import asyncio
import doctest
import inspect
import sys

import numpy as np
import pytest

import akidb_mlx
from akidb_mlx import HybridEmbedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from support.checkpoints import MULTI_VECTOR, SPARSE, TINY_RERANKER
from support.joint import make_joint_folder

CLASSES = [
    getattr(akidb_mlx, name)
    for name in (
        "Embedder",
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


def methods(kind):
    """name → (its docstring, the module that it stands in), of ours alone."""
    found = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("akidb_mlx"):
            for name, member in vars(base).items():
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if not name.startswith("_") and inspect.isfunction(function):
                    found[name] = (inspect.getdoc(function) or "", base.__module__)
    return found


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_examples_run(kind, models):
    runner, report = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    for name, (text, module) in methods(kind).items():
        space = {**vars(sys.modules[module]), **models, "asyncio": asyncio, "np": np, "Embedder": akidb_mlx.Embedder}
        example = doctest.DocTestParser().get_doctest(text, space, f"{kind.__name__}.{name}", None, None)
        assert example.examples, f"{kind.__name__}.{name} has no example"
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
