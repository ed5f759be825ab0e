"""akidb_mlx.mteb: what needs no MTEB always, the rest where it is installed; and docs/mteb.md."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from akidb_mlx import Embedder, MultiVectorEmbedder, Reranker, SparseEmbedder
from akidb_mlx.errors import ConfigError, InputError
from akidb_mlx.mteb import MtebDense, MtebMultiVector, MtebSparse, _sparse_rows, mteb_model
from support.checkpoints import MULTI_VECTOR, PROMPTS, REFERENCE, SPARSE, TINY_RERANKER
from support.comparison import assert_close
from support.places import DOCS

OURS = 5e-6
TEXTS = ["Our garden has 12 apple trees.", "Snow fell through the night.", "warm bread", "Trees.", ""]
BATCHES = [{"text": TEXTS[:2], "id": ["a", "b"]}, {"text": TEXTS[2:], "title": ["", "", ""]}]
RETRIEVAL = SimpleNamespace(name="OwnTexts", type="Retrieval", simplified_task_type="retrieval")
SIMILARITY = SimpleNamespace(name="OwnPairs", type="STS", simplified_task_type="semantic-similarity")
SPLIT = {"hf_split": "test", "hf_subset": "default"}


@pytest.fixture(scope="module")
def prompted():
    with Embedder.load(PROMPTS) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def many_prompts(tmp_path_factory):
    """A folder that names prompts for tasks too, as EmbeddingGemma's does."""
    folder = tmp_path_factory.mktemp("models") / "many-prompts"
    shutil.copytree(PROMPTS, folder)
    own = folder / "config_sentence_transformers.json"
    facts = json.loads(own.read_text(encoding="utf-8"))
    facts["prompts"] |= {
        "STS": "alike: ",
        "Retrieval": "find: ",
        "Retrieval-query": "asked: ",
        "OwnTask-query": "own: ",
    }
    own.write_text(json.dumps(facts), encoding="utf-8")
    return folder


def encoded(model, task, prompt_type=None, batches=BATCHES, **options):
    return model.encode(iter(batches), task_metadata=task, **SPLIT, prompt_type=prompt_type, **options)


# ── without MTEB ─────────────────────────────────────────────────────────────────────────────────────


def test_rows_are_those_of_the_sides(prompted):
    model = mteb_model(prompted)
    assert isinstance(model, MtebDense)
    for side, expected in {
        "query": prompted.encode_query(TEXTS),
        "document": prompted.encode_document(TEXTS),
        None: prompted.encode(TEXTS),
    }.items():
        rows = encoded(model, RETRIEVAL, side, batch_size=2, show_progress_bar=False)
        assert rows.dtype == np.float32
        assert_close(rows, expected, OURS)
        assert_close(encoded(model, RETRIEVAL, SimpleNamespace(value=side)), expected, OURS)
    assert encoded(model, RETRIEVAL, "query", batches=[]).shape == (0, prompted.dimension)


@pytest.mark.parametrize(
    ("task", "side", "prompt"),
    [
        (RETRIEVAL, "query", "asked: "),
        (RETRIEVAL, "document", "find: "),
        (SimpleNamespace(name="OwnTask", type="Retrieval"), "query", "own: "),
        (SimpleNamespace(name="OwnTask", type="Clustering"), "document", "passage text: "),
        (SIMILARITY, None, "alike: "),
        (SIMILARITY, "query", "alike: "),
        (SimpleNamespace(name="OwnTask", type="Clustering"), None, ""),
    ],
)
def test_a_tasks_prompt_is_taken_in_mtebs_order(many_prompts, task, side, prompt):
    with Embedder.load(many_prompts) as embedder:
        assert_close(encoded(mteb_model(embedder), task, side), embedder.encode(TEXTS, prompt=prompt), OURS)
        texts = len(TEXTS) + len(TEXTS)
        assert embedder.stats()["texts"] >= texts  # whichever prompt, the loaded model is one


def test_what_the_user_set_holds_for_every_task(many_prompts):
    with Embedder.load(many_prompts, query_prompt="mine: ") as embedder:
        model = mteb_model(embedder)
        assert_close(encoded(model, RETRIEVAL, "query"), embedder.encode(TEXTS, prompt="mine: "), OURS)
        assert_close(encoded(model, RETRIEVAL, "document"), embedder.encode(TEXTS, prompt="find: "), OURS)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"batches": [{"image": [], "id": []}]}, InputError, "has no texts but image, id; only texts"),
        ({"batches": [{"text": "one text"}]}, TypeError, "must be a list of str"),
        ({"prompt_type": "passage"}, InputError, "'passage'; it is query, document or None"),
        ({"normalize_embeddings": True}, InputError, "has normalize_embeddings; set it where"),
        ({"precision": "int8"}, InputError, "precision is 'int8'; the rows are float32"),
    ],
    ids=["image", "str", "prompt_type", "option", "precision"],
)
def test_what_is_refused(prompted, given, error, words):
    with pytest.raises(error, match=words):
        encoded(mteb_model(prompted), RETRIEVAL, **given)


def test_each_setting_has_a_revision_of_its_own(prompted):
    revisions = [mteb_model(prompted).revision]
    for setting in ({"truncate_dim": 8}, {"query_prompt": "q: "}, {"max_seq_length": 20}, {"pooling": "cls"}):
        with Embedder.load(PROMPTS, **setting) as other:
            revisions.append(mteb_model(other).revision)
    assert len(set(revisions)) == 5 and all(re.fullmatch(r"[0-9a-f]{64}-\w+-cosine", one) for one in revisions)
    with Embedder.load(PROMPTS) as same:
        assert mteb_model(same, "us/ours").revision == revisions[0]
    assert revisions[0].startswith(prompted.fingerprint)


def test_names(prompted):
    assert mteb_model(prompted).name == "akidb-mlx/bert-prompts"
    assert mteb_model(prompted, "us/ours").name == "us/ours"
    with pytest.raises(ConfigError, match="name is 'ours'; MTEB wants \"organization/model\""):
        mteb_model(prompted, "ours")
    with Reranker.load(TINY_RERANKER) as reranker:
        with pytest.raises(TypeError, match="not a Reranker"):
            mteb_model(reranker)


def test_without_mteb_it_says_what_to_install(prompted, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ConfigError, match=r'pip install "mteb>=2.26,<3"'):
        _ = mteb_model(prompted).mteb_model_meta


def test_sparse_rows():
    with SparseEmbedder.load(SPARSE / "bert-max") as embedder:
        model = mteb_model(embedder)
        assert isinstance(model, MtebSparse)
        expected = embedder.encode_query(TEXTS)
        rows = encoded(model, SIMILARITY, "query")
        assert_close(rows, expected.to_dense(), OURS)
        assert_close(encoded(model, SimpleNamespace(**{**vars(RETRIEVAL), "type": "Reranking"}), "query"), rows, OURS)
        assert encoded(model, SIMILARITY, batches=[]).shape == (0, embedder.dimension)
        back = _sparse_rows(expected.to_dense())
        assert back.indptr.tolist() == expected.indptr.tolist() and back.indices.tolist() == expected.indices.tolist()
        assert back.values.tolist() == expected.values.tolist()
        assert len(_sparse_rows(expected.to_dense()[0])) == 1


def test_vectors_of_tokens():
    with MultiVectorEmbedder.load(MULTI_VECTOR / "fixed") as embedder:
        model = mteb_model(embedder)
        assert isinstance(model, MtebMultiVector) and not hasattr(model, "encode")
        for side, expected in {
            "query": embedder.encode_query(TEXTS),
            "document": embedder.encode_document(TEXTS),
        }.items():
            rows = model._encode(iter(BATCHES), task_metadata=RETRIEVAL, **SPLIT, prompt_type=side)
            assert [len(row) for row in rows] == [len(row) for row in expected]
            assert_close(np.concatenate(rows), expected.vectors, OURS)
        assert model._encode([], task_metadata=RETRIEVAL, **SPLIT) == []


# ── with it ──────────────────────────────────────────────────────────────────────────────────────────

with_mteb = pytest.mark.filterwarnings("default")  # what MTEB warns of is not ours


@pytest.fixture
def mteb(monkeypatch, tmp_path):
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "kept"))
    return pytest.importorskip("mteb", reason="needs mteb, in an environment that may have torch: docs/mteb.md")


@pytest.fixture
def own_task(mteb):
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    texts = json.loads((REFERENCE.parent / "minilm_texts.json").read_text(encoding="utf-8"))
    texts = [text for text in dict.fromkeys(texts) if len(text.split()) > 7]
    halves = [
        (" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])) for words in map(str.split, texts)
    ]

    class OwnTexts(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="OwnTexts",
            description="The second half of a text answers its first.",
            dataset={"path": "own", "revision": "1"},
            type="Retrieval",
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **_):
            split = {
                "corpus": Dataset.from_list([{"id": f"d{i}", "text": half} for i, (_, half) in enumerate(halves)]),
                "queries": Dataset.from_list([{"id": f"q{i}", "text": half} for i, (half, _) in enumerate(halves)]),
                "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in range(len(halves))},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return OwnTexts


def scores_of(mteb, model, task, **options):
    (result,) = mteb.evaluate(model, task(), show_progress_bar=False, **options).task_results
    return {name: value for name, value in result.scores["test"][0].items() if isinstance(value, float)}


def assert_same_scores(found, expected):
    """NaN is what MTEB says of an area that has no points."""
    assert found.keys() == expected.keys() and 0 < expected["ndcg_at_10"] < 1
    assert len([score for score in expected.values() if not np.isnan(score)]) > 30
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), atol=1e-4, rtol=0)


@with_mteb
@pytest.mark.slow
@pytest.mark.parametrize(
    ("face", "folder", "tasks"),
    [
        (Embedder, PROMPTS, 28),
        (SparseEmbedder, SPARSE / "bert-max", 28),
        (MultiVectorEmbedder, MULTI_VECTOR / "fixed", 9),
    ],
    ids=["dense", "sparse", "multi"],
)
def test_all_of_mtebs_mock_tasks_pass(mteb, face, folder, tasks):
    with face.load(folder) as embedder:
        results = mteb.mock_run(mteb_model(embedder))
    ran = {name: result for name, result in results.items() if result is not None}
    assert {name for name, result in ran.items() if not hasattr(result, "scores")} == set()
    assert len(ran) == tasks  # of mteb 2.26


@with_mteb
@pytest.mark.parametrize("folder", [PROMPTS, "many"], ids=["sides", "tasks"])
def test_a_retrieval_has_the_references_scores(mteb, own_task, many_prompts, folder):
    from sentence_transformers import SentenceTransformer

    folder = many_prompts if folder == "many" else folder
    expected = scores_of(mteb, SentenceTransformer(str(folder), device="cpu"), own_task, cache=None)
    with Embedder.load(folder) as embedder:
        found = scores_of(mteb, mteb_model(embedder), own_task, cache=None)
    assert_same_scores(found, expected)


@with_mteb
@pytest.mark.parametrize("kind", ["sparse", "multi"])
def test_the_other_kinds_have_the_references_scores(mteb, own_task, kind):
    import sentence_transformers

    face, folder, reference = {
        "sparse": (SparseEmbedder, SPARSE / "bert-max", sentence_transformers.SparseEncoder),
        "multi": (MultiVectorEmbedder, MULTI_VECTOR / "fixed", sentence_transformers.MultiVectorEncoder),
    }[kind]
    expected = scores_of(mteb, reference(str(folder), device="cpu"), own_task, cache=None)
    with face.load(folder) as embedder:
        found = scores_of(mteb, mteb_model(embedder), own_task, cache=None)
    assert_same_scores(found, expected)


@with_mteb
def test_a_second_setting_does_not_get_the_firsts_scores(mteb, own_task):
    scores = []
    for setting in ({}, {"truncate_dim": 4}, {}):
        with Embedder.load(PROMPTS, **setting) as embedder:
            scores.append(scores_of(mteb, mteb_model(embedder), own_task)["ndcg_at_10"])
    assert scores[0] == scores[2] != scores[1]


@with_mteb
def test_scores_come_as_tensors(mteb, prompted):
    import torch

    model = mteb_model(prompted)
    rows = torch.from_numpy(prompted.encode(TEXTS))
    assert float(model.similarity(rows[0], rows[1])) == pytest.approx(float(model.similarity(rows, rows)[0, 1]))
    assert model.similarity_pairwise(rows, rows).shape == (5,)
    assert model.mteb_model_meta.revision == model.revision and model.mteb_model_meta.embed_dim == 16
    with SparseEmbedder.load(SPARSE / "bert-max") as embedder:
        sparse = mteb_model(embedder)
        coordinates = encoded(sparse, RETRIEVAL, "document")
        assert coordinates.is_sparse
        expected = embedder.similarity(embedder.encode_document(TEXTS), embedder.encode_document(TEXTS))
        assert_close(sparse.similarity(coordinates, coordinates.to_dense()), expected, 1e-5)
        assert_close(sparse.similarity_pairwise(coordinates, coordinates), np.diag(expected), 1e-5)


# ── docs/mteb.md ─────────────────────────────────────────────────────────────────────────────────────

PAGE = (DOCS / "mteb.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- (.*?) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
TINY = {
    "Qwen/Qwen3-Embedding-0.6B": REFERENCE / "qwen3-embedding",
    "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ": REFERENCE / "qwen3-embedding-4bit-dwq",
}


def run(code):
    for name, folder in TINY.items():
        code = code.replace(f'"{name}"', repr(str(folder)))
    space = {"__name__": "page"}
    exec(code, space)
    return space


def test_every_block_is_run_by_a_test():
    assert set(BLOCKS) == {"nothing", "mteb"} and PAGE.count("```python") == 2


def test_how_far_rows_move(capsys):
    space = run(BLOCKS["nothing"])
    assert space["cosines"].shape == (3,) and space["kept"] == 1
    assert "of the ten nearest 100% stay" in capsys.readouterr().out


@with_mteb
def test_own_texts(mteb):
    scores = run(BLOCKS["mteb"])["scores"]
    assert len(scores) == 2 and all(0 < score <= 1 for score in scores.values())
