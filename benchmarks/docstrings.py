"""Score models on one's own texts with MTEB: first paragraphs of the standard library's docstrings find the rest.

    python benchmarks/docstrings.py MODEL [MODEL ...] [--truncate-dim 128] [--reference]

Needs mteb, which brings torch, so an environment of its own. Which texts there are depends on Python's version.
"""

import argparse
import hashlib
import importlib
import inspect
import json
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from akidb_mlx import Embedder
from akidb_mlx.mteb import mteb_model

MODULES = """
argparse ast asyncio base64 bisect calendar collections concurrent.futures configparser contextlib copy csv ctypes
datetime decimal difflib dis doctest email.message enum fileinput fractions ftplib functools gettext glob gzip heapq
html http.client http.server imaplib inspect io ipaddress itertools json logging mailbox math mimetypes
multiprocessing.pool multiprocessing.shared_memory operator optparse os pathlib pdb pickle pickletools platform pprint
random re sched shlex shutil smtplib socket socketserver sqlite3 ssl statistics string subprocess tarfile tempfile
textwrap threading timeit tkinter tokenize trace traceback turtle types typing unittest unittest.mock urllib.parse
urllib.request uuid warnings weakref xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipfile zlib
"""


def read_pairs(most: int = 800) -> list[tuple[str, str]]:
    """(first paragraph, the rest) of docstrings, each rest once."""
    pairs: dict[str, str] = {}
    for name in MODULES.split():
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for _, thing in inspect.getmembers(module):
            members = [member for _, member in inspect.getmembers(thing)] if inspect.isclass(thing) else []
            for one in [thing, *members]:
                doc = (inspect.getdoc(one) or "") if callable(one) else ""
                first, _, rest = (" ".join(part.split()) for part in doc.partition("\n\n"))
                if 20 < len(first) < 200 and len(rest) > 80 and "(" not in first[:20]:
                    pairs[first] = rest
    once = {rest: first for first, rest in reversed(sorted(pairs.items())[:most])}
    return [(first, rest) for rest, first in reversed(once.items())]


PAIRS = read_pairs()


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
