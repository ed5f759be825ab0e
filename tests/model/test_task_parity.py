"""Models with an adapter for each task give the reference's vectors, whatever tasks share the engine."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from akidb_mlx import Embedder, errors
from support.checkpoints import TASK_CASES, read_task_case
from support.comparison import assert_close, cosines

FACTS = {name: read_task_case(name)[1] for name in TASK_CASES}
STORED_HALF = [name for name in TASK_CASES if FACTS[name]["stored_dtype"] != "float32"]


def default_task(name):
    """One to load with, where the model has no vector without."""
    return None if FACTS[name]["without_task"] else "retrieval"


def calls(embedder, arrays):
    """Name in the arrays → what computes it."""
    for name in arrays:
        kind, _, task = name.partition(" ")
        if kind == "encode":
            yield name, lambda texts, task=task or None: embedder.encode(texts, task=task)
        elif kind != "stored_dtype":
            with Embedder.load(embedder.config.with_changes(task=task)) as other:
                assert other._loaded is embedder._loaded  # the model is loaded once for all tasks
                yield name, getattr(other, f"encode_{kind}")


@pytest.mark.parametrize("name", TASK_CASES)
def test_vectors_equal_the_references(name):
    folder, facts, arrays = read_task_case(name)
    with Embedder.load(folder, dtype="float32", task=default_task(name)) as embedder:
        for call, encode in calls(embedder, arrays):
            assert_close(encode(facts["texts"]), arrays[call], 1e-5)


@pytest.mark.parametrize("name", TASK_CASES)
def test_token_ids_equal_the_references(name):
    folder, facts, _ = read_task_case(name)
    with Embedder.load(folder, task=default_task(name)) as embedder:
        prompt = "" if facts["without_task"] else "Document: "
        encodings = embedder._path.encoder.encode(facts["texts"], prompt).encodings
        assert [encoding.token_ids.tolist() for encoding in encodings] == facts["token_ids"]
        assert embedder.max_seq_length == facts["max_seq_length"]


@pytest.mark.parametrize("name", TASK_CASES)
def test_each_text_alone_gives_the_same(name):
    folder, facts, arrays = read_task_case(name)
    with Embedder.load(folder, dtype="float32", task=default_task(name)) as embedder:
        for task in facts["tasks"]:
            alone = np.concatenate([embedder.encode([text], task=task) for text in facts["texts"]])
            assert_close(alone, arrays[f"encode {task}"], 1e-5)


@pytest.mark.parametrize("name", STORED_HALF)
def test_half_precision_stays_near(name):
    folder, facts, arrays = read_task_case(name)
    (stored,) = [call for call in arrays if call.startswith("stored_dtype")]
    task = stored.split()[2]
    least = {"float16": 0.9999, "bfloat16": 0.97}[facts["stored_dtype"]]
    with Embedder.load(folder, dtype=facts["stored_dtype"], task=default_task(name)) as embedder:
        ours = embedder.encode(facts["texts"], task=task)
    assert cosines(ours, arrays[f"encode {task}"]).min() >= least
    assert cosines(ours, arrays[stored]).min() >= least


@pytest.mark.parametrize("name", TASK_CASES)
def test_tasks_mixed_from_threads_stay_apart(name, caplog):
    """Rows of other tasks wait in the same queue, and equal texts of two tasks are two rows."""
    folder, facts, arrays = read_task_case(name)
    with Embedder.load(folder, dtype="float32", task=default_task(name), max_batch_tokens=256) as embedder:
        named = [(call, encode) for call, encode in calls(embedder, arrays) if call.startswith("encode")]
        with ThreadPoolExecutor(8) as pool:
            futures = [(call, pool.submit(encode, facts["texts"])) for _ in range(6) for call, encode in named]
            for call, future in futures:
                assert_close(future.result(), arrays[call], 1e-5)
    assert not [record for record in caplog.records if "batch" in record.message]  # none had to be computed again


def test_a_side_takes_the_half_that_is_named_for_it():
    """Jina v3: queries and documents have adapters of their own, and a text that is neither has none."""
    folder, facts, arrays = read_task_case("jina-v3")
    texts = facts["texts"]
    for task in (None, "retrieval"):
        with Embedder.load(folder, dtype="float32", task=task) as embedder:
            assert_close(embedder.encode_query(texts), arrays["query retrieval.query"], 1e-5)
            assert_close(embedder.encode_document(texts), arrays["document retrieval.passage"], 1e-5)
            stream = np.concatenate(list(embedder.encode_stream(texts, side="document")))
            assert_close(stream, arrays["document retrieval.passage"], 1e-5)
    with Embedder.load(folder, dtype="float32", task="retrieval") as embedder:
        with pytest.raises(errors.InputError, match="nothing says which these texts are"):
            embedder.encode(texts)
        with pytest.raises(errors.InputError, match=r"task 'retrieval.query' is not for what is a document"):
            Embedder.load(folder, task="retrieval.query").encode_document(texts)


def test_where_no_task_means_no_vector_it_must_be_named():
    folder, facts, arrays = read_task_case("jina-v5-nano")
    said = "has an adapter for each task and no use without: its tasks are 'retrieval', 'text-matching', 'clustering', "
    with pytest.raises(errors.ConfigError, match=said):
        Embedder.load(folder)
    with pytest.raises(errors.ConfigError, match="has no task 'separation'; its tasks are 'retrieval', "):
        Embedder.load(folder, task="separation")
    with Embedder.load(folder, dtype="float32", task="retrieval.query") as embedder:  # as Jina's own API calls it
        assert_close(embedder.encode_query(facts["texts"]), arrays["query retrieval"], 1e-5)


def test_the_task_decides_the_fingerprint(tmp_path):
    folder, facts, _ = read_task_case("jina-v3-hf")
    prints = {}
    for task in (None, "retrieval", "separation", "text-matching", "retrieval_query"):
        with Embedder.load(folder, task=task) as embedder:
            prints[task] = embedder.fingerprint
            info = embedder.info()
            assert info["task"] == task
            assert set(info["adapters"]) == set(facts["tasks"])
    assert prints[None] == prints["retrieval"]  # the same adapters for queries and for documents
    assert len(set(prints.values())) == 4
    shutil.copytree(folder, tmp_path / "other")
    file = tmp_path / "other" / "retrieval_query" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 5}))
    with Embedder.load(tmp_path / "other") as other:
        assert other.fingerprint != prints[None]


def test_all_tasks_share_the_weights():
    folder, _, _ = read_task_case("jina-v3")
    with Embedder.load(folder, dtype="float32") as embedder:
        network = embedder._loaded.engine.live_model
        tables = {id(backbone.word.base.weight) for backbone in network.adapted.values()}
        assert tables == {id(network.backbone.word.weight)}
        stored = (folder / "model.safetensors").stat().st_size  # in 16 bit, the pooler among it
        assert network.parameter_bytes() < 2 * stored
