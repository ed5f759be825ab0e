"""docs/hybrid.md: its Python runs, with tiny models in place of those that it names."""

import re

import numpy as np
import pytest

from support.checkpoints import REFERENCE
from support.joint import make_joint_folder
from support.packages import needs
from support.places import DOCS

pytestmark = pytest.mark.filterwarnings("default")  # the stores' own warnings are not ours

BLOCKS = re.findall(r"<!-- (.*?) -->\n```python\n(.*?)```", (DOCS / "hybrid.md").read_text(encoding="utf-8"), re.DOTALL)
TINY = {
    "naver/splade-cocondenser-ensembledistil": REFERENCE / "sparse" / "bert-max",
    "lightonai/GTE-ModernColBERT-v1": REFERENCE / "multi_vector" / "fixed",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {**TINY, "BAAI/bge-m3": make_joint_folder(tmp_path_factory.mktemp("page"))}


def run(code, models):
    for name, folder in models.items():
        code = code.replace(f'"{name}"', repr(str(folder)))
    assert '.load("' not in code and 'model="' not in code
    space = {}
    exec(code, space)
    return space


def block(*said):
    """(needs, code) of the one block that says all of this."""
    (found,) = [(tag, code) for tag, code in BLOCKS if all(word in code for word in said)]
    return found


def test_every_block_is_run_by_a_test():
    assert len(BLOCKS) == 10 and (DOCS / "hybrid.md").read_text(encoding="utf-8").count("```python") == 10


def test_rows(models):
    space = run(block("sparse.decode")[1], models)
    assert len(space["indices"]) == len(space["values"]) > 0 and len(space["words"][0]) == 5
    assert space["scores"].shape == (1, 2) and len(space["short"][0][0]) <= 64
    space = run(block("token_pooling=2")[1], models)
    assert space["first"].dtype == np.float16 and space["scores"].shape == (1, 2)
    assert len(space["best"]) == 1 and len(space["pooled"][0]) < len(space["first"])
    space = run(block("HybridEmbedder")[1], models)
    assert space["mixed"].shape == (1, 2)


def test_hybrid_in_langchain(models, tmp_path):
    needs("langchain_qdrant", "qdrant_client")
    store, recipe = block("QdrantVectorStore.from_texts")[1], block("ensure_recipe")[1]
    space = run(store + recipe, models)
    assert space["found"][0].page_content == "Tides follow the moon."


def test_hybrid_in_llama_index(models):
    needs("llama_index.vector_stores.qdrant", "qdrant_client")
    space = run(block("sparse_query_fn=")[1], models)
    assert {found.text for found in space["found"]} == {"MLX is an array framework.", "Tides follow the moon."}


def test_milvus(models):
    needs("langchain_milvus", "milvus_lite", "langchain_qdrant")
    names = block("QdrantVectorStore.from_texts")[1].partition("store =")[0]
    run(names + block("Milvus")[1], models)


def test_late_interaction(models):
    space = run(block("AkiDBMLXRerank(")[1], models)
    texts = ["Tides follow the moon.", "what makes the sea rise?"]
    best = space["reranker"].rerank(texts, "what makes the sea rise?")
    assert len(best) == 2 and best[0]["relevance_score"] >= best[1]["relevance_score"]


@pytest.mark.parametrize("store", ["qdrant_client", "lancedb"])
def test_multi_vectors_in(store, models):
    needs(store)
    space = run(block(f"{'models.MultiVectorConfig' if store == 'qdrant_client' else 'import lancedb'}")[1], models)
    multi, found = space["multi"], space["found"]
    expected = multi.similarity([space["query"]], multi.encode_document(space["texts"]))[0]
    scores = space["scores"] if store == "lancedb" else [point.score for point in found]
    assert np.allclose(scores, np.sort(expected)[::-1], atol=1e-4)
