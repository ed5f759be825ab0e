"""Score models on one's own texts with MTEB: first paragraphs of the standard library's docstrings find the rest.

    python benchmarks/docstrings.py MODEL [MODEL ...] [--truncate-dim 128] [--reference]

Needs mteb, which brings torch, so an environment of its own. Which texts there are depends on Python's version.
"""

import argparse
import hashlib
import json
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from akidb_mlx import Embedder
from akidb_mlx.doctor.texts import docstrings
from akidb_mlx.mteb import mteb_model

PAIRS = docstrings()


class Docstrings(AbsTaskRetrieval):
    """MTEB's retrieval of each rest by its first paragraph."""

    metadata = TaskMetadata(
        name="Docstrings",
        description="First paragraphs of the standard library's docstrings find the rest.",
        dataset={"path": "own", "revision": hashlib.sha256(json.dumps(PAIRS).encode()).hexdigest()},
        type="Retrieval",
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, **_: Any) -> None:
        split = {
            "corpus": Dataset.from_list([{"id": f"d{place}", "text": rest} for place, (_, rest) in enumerate(PAIRS)]),
            "queries": Dataset.from_list([{"id": f"q{place}", "text": one} for place, (one, _) in enumerate(PAIRS)]),
            "relevant_docs": {f"q{place}": {f"d{place}": 1} for place in range(len(PAIRS))},
            "top_ranked": None,
        }
        self.dataset: dict[str, Any] = {"default": {"test": split}}
        self.data_loaded = True


def show(name: str, model: Any) -> None:
    (result,) = mteb.evaluate(model, Docstrings(), cache=None, show_progress_bar=False).task_results
    scores = result.scores["test"][0]
    print(f"{name}: nDCG@10 {scores['ndcg_at_10']:.4f}, recall@10 {scores['recall_at_10']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--truncate-dim", type=int)
    parser.add_argument("--reference", action="store_true", help="score sentence-transformers too, of folders")
    asked = parser.parse_args()
    print(f"{len(PAIRS)} docstrings")
    for model in asked.models:
        with Embedder.load(model, truncate_dim=asked.truncate_dim) as embedder:
            show(model, mteb_model(embedder))
        if asked.reference:
            from sentence_transformers import SentenceTransformer

            show(f"{model}, sentence-transformers", SentenceTransformer(model, truncate_dim=asked.truncate_dim))


if __name__ == "__main__":
    main()
