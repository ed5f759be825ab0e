"""docs/corpora.md: its Python runs; each store finds the exact text first and embeds nothing but the query."""

import json
import re
from pathlib import Path

import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.recipe import ensure_recipe
from support.checkpoints import MINILM
from support.packages import needs
from support.places import DOCS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # the stores' own warnings are not ours

PAGE = (DOCS / "corpora.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- (.*?) -->\n)?```python\n(.*?)```", PAGE, re.DOTALL)
AGAIN = {tag.removeprefix("again: "): code for tag, code in BLOCKS if tag.startswith("again: ")}
ALWAYS = {tag: code for tag, code in BLOCKS if tag.startswith("always")}
STORES = [(tag.removeprefix("needs: "), code) for tag, code in BLOCKS if tag.startswith("needs: l")]
TEXTS = [
    "MLX is an array framework for machine learning on Apple silicon.",
    "A tokenizer splits text into pieces that a model knows.",
    "The harbour was full of copper lanterns that winter.",
    "Parquet stores columns in row groups, with their statistics.",
    "Ray starts actors on every machine of a cluster.",
    "Violins are made of spruce and maple.",
]


@pytest.fixture(autouse=True)
def articles(tmp_path, monkeypatch, minilm):
    """The page's first piece, on a small corpus: articles.parquet."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": i, "text": text, "package": f"p{i}"} for i, text in enumerate(TEXTS)]
    Path("articles.jsonl").write_text("\n".join(map(json.dumps, rows)))
    exec(next(code for tag, code in BLOCKS if "embed_corpus(" in code), {})


def test_the_page_has_every_store_in_both_frameworks():
    assert len(STORES) == 8
    kept = [tag for tag, code in STORES if "save_recipe(" in code]
    assert len(kept) == 5 and sum("faiss" in tag for tag in kept) == 1  # all that lie on the disk


def langchain_finds(space, text):
    """(text, relevance, metadata) of the first three, and the texts that a threshold keeps."""
    store = space["store"]
    found = store.similarity_search_with_relevance_scores(text, k=3)
    kept = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.8, "k": 3}
    ).invoke(text)
    rows = [(document.page_content, score, document.metadata) for document, score in found]
    return rows, [document.page_content for document in kept]


def llama_index_finds(space, text):
    """The same with LlamaIndex's words."""
    from llama_index.core.postprocessor import SimilarityPostprocessor

    found = space["index"].as_retriever(similarity_top_k=3).retrieve(text)
    kept = SimilarityPostprocessor(similarity_cutoff=0.8).postprocess_nodes(found)
    rows = [(hit.node.get_content(), hit.score, hit.node.metadata) for hit in found]
    return rows, [hit.node.get_content() for hit in kept]


@pytest.mark.parametrize(("modules", "code"), STORES, ids=[tag for tag, _ in STORES])
def test_a_store_takes_the_vectors_and_finds_them(modules, code, tmp_path, monkeypatch, minilm):
    needs(*modules.split(", "))
    space = {}
    exec(ALWAYS["always"], space)
    if "batches()" in code and "def batches" not in code:
        needs("llama_index.core")
        exec(ALWAYS["always: llama_index"], space)
    embedded, real = [], Embedder.encode_document

    def recorded(self, texts, **options):
        embedded.extend(texts)
        return real(self, texts, **options)

    monkeypatch.setattr(Embedder, "encode_document", recorded)
    exec(code.replace('"chroma"', repr(str(tmp_path / "chroma"))), space)  # Chroma remembers paths as written
    found_in = langchain_finds if "store" in space else llama_index_finds
    for i, text in enumerate(TEXTS):
        found, above = found_in(space, text)
        contents, scores, (metadata, *_) = zip(*found, strict=True)
        assert contents[0] == text
        assert metadata["package"] == f"p{i}"
        assert len(scores) == 3
        assert max(scores[1:]) + 0.1 < scores[0]  # the same text is the most relevant
        assert all(-1e-5 <= score <= 1 + 1e-5 for score in scores), scores
        assert above == [text]
    assert not set(TEXTS).intersection(embedded)  # LangChain's Qdrant embeds a probe
    for folder in re.findall(r'save_recipe\("(\w+)"', code):
        ensure_recipe(folder, minilm)
        with Embedder.load(MINILM, pooling="cls") as changed, pytest.raises(ConfigError, match="'mean' → 'cls'"):
            ensure_recipe(folder, changed)
    again = AGAIN.get(modules)
    if again and "IndexFlatIP" in code:
        exec(again, space)
        assert langchain_finds(space, TEXTS[2])[1] == [TEXTS[2]]
    # What is pasted twice does not fill an index twice.
    if "overwrite" in code:
        exec(code, space)
        assert langchain_finds(space, TEXTS[0])[1] == [TEXTS[0]]


def test_ray_pieces_run(minilm):
    needs("ray", "llama_index.ingestion.ray")
    import pyarrow.dataset
    import ray

    pieces = [code for tag, code in BLOCKS if tag == "needs: ray"]
    assert len(pieces) == 2
    Path("articles").mkdir()
    Path("articles.parquet").rename("articles/a.parquet")
    ray.init(num_cpus=4, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        exec(pieces[0].replace("text_column=", "output_column='again', text_column="), {})
        table = pyarrow.dataset.dataset("embedded").to_table().sort_by("id")
        a, b = (table[name].to_pylist() for name in ("embedding", "again"))
        assert max(abs(x - y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)) < 1e-6
        space = {}
        exec(pieces[1], space)
        assert all(len(row["embedding"]) == 384 for row in space["embedded"].take_all())
    finally:
        ray.shutdown()
