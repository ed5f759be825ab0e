"""Pickles that tools take for keys: small, the same before and after use, and in every process."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.schema import TextNode

from akidb_mlx import EmbedderConfig
from akidb_mlx.restoring import restore
from akidb_mlx.testing import FakeEmbedder
from llama_index_akidb_mlx import AkiDBMLXEmbedding
from support import pickled
from support.joint import make_joint_folder
from support.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_joint_folder(tmp_path_factory.mktemp("pickles"))


@pytest.fixture(scope="module")
def made(folder):
    made = pickled.objects(folder)
    yield made
    for thing in made.values():
        if hasattr(thing, "close"):
            thing.close()


def use(made):
    for name in ("Embedder", "SparseEmbedder", "MultiVectorEmbedder", "HybridEmbedder"):
        made[name].encode(["a"])
        made[name].encode_query(["a"])
    made["Reranker"].predict([("a", "b")])
    made["LangChain"].embed_query("a")
    made["LangChain's reranker"].score([("a", "b")])
    IngestionPipeline(transformations=[made["LlamaIndex"]], disable_cache=True).run(nodes=[TextNode(text="a")])
    made["LlamaIndex"].get_query_embedding("a")
    made["LlamaIndex's reranker"].load()
    made["LlamaIndex's sparse"].get_query_embedding("a")


def test_pickles_are_small_and_the_same_in_every_process_before_and_after_use(folder, made):
    before = pickled.pickles(made)
    assert {name: len(data) for name, data in before.items() if len(data) >= 2_000} == {}
    use(made)
    assert pickled.pickles(made) == before
    again = {name: pickle.loads(data) for name, data in before.items() if not name.endswith(", private")}
    assert pickled.pickles(again) == before
    # Sets have another order there.
    child = subprocess.run(
        [sys.executable, "-m", "support.pickled", str(folder)],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert json.loads(child.stdout) == pickled.digests(before)


def test_everything_is_restored_by_one_function_of_a_module(made):
    for name, thing in made.items():
        if name != "for Milvus":  # a plain object, which holds what is restored so
            assert thing.__reduce__()[0] is restore, name
    for data in pickled.pickles(made).values():
        assert b"getattr" not in data  # which is how a bound method travels


def test_equal_settings_pickle_alike_however_they_were_given():
    """Whether two equal strings are one object, or a default was said, must not show."""
    shared = "some/model"
    config = EmbedderConfig(model=shared, revision=shared)
    other = EmbedderConfig(model="".join(shared), revision="/".join(["some", "model"]))
    assert pickle.dumps(config) == pickle.dumps(other)
    said = AkiDBMLXEmbedding(model_name=shared, embed_batch_size=int("512"))
    assert pickle.dumps(said) == pickle.dumps(AkiDBMLXEmbedding(model_name=shared))


def test_a_pickled_configuration_keeps_values_and_origins(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "8")
    config = EmbedderConfig(model="Spécial ü", cache_dir="~/models", query_prompt="", query_latency_target_ms=7.5)
    data = pickle.dumps(config)
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "9")
    again = pickle.loads(data)
    assert again == config and again.truncate_dim == 8 and again.cache_dir == config.cache_dir
    assert [again.source_of(name) for name in ("truncate_dim", "query_prompt", "pooling")] == [
        "AKIDB_MLX_TRUNCATE_DIM",
        "argument",
        "default",
    ]


class _Names(BaseSpanHandler[SimpleSpan]):
    """The name of each span that is begun."""

    names: list[str] = []  # noqa: RUF012  # pydantic copies it

    def new_span(self, id_, bound_args, **_):
        self.names.append(id_.rsplit("-", 5)[0])
        return SimpleSpan(id_=id_)

    def prepare_to_exit_span(self, id_, bound_args, **_):
        return None

    def prepare_to_drop_span(self, id_, bound_args, **_):
        return None


def _spans(model):
    handler = _Names()
    handlers = get_dispatcher().span_handlers
    handlers.append(handler)
    try:
        model([TextNode(text="one"), TextNode(text="two")])
        IngestionPipeline(transformations=[model], disable_cache=True).run(nodes=[TextNode(text="three")])
        model.get_query_embedding("four")
    finally:
        handlers.remove(handler)
    own = type(model).__name__ + "."
    return [name.removeprefix(own) for name in handler.names if name.startswith(own)]


def test_a_call_is_one_span_of_llama_index():
    expected = _spans(MockEmbedding(embed_dim=4))
    assert expected.count("__call__") == 2
    ours = _spans(AkiDBMLXEmbedding(embedder=FakeEmbedder(4)))
    for name in ("__call__", "get_query_embedding", "get_text_embedding_batch"):
        assert ours.count(name) == expected.count(name), name
