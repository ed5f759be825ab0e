"""Retrieve 50, rerank to 5 with LangChain: a fast search finds candidates, a reranker reads each with the question.

pip install "akidb-mlx[langchain]" langchain-classic
python langchain_rerank.py [RERANKER]      (a folder or a Hub id; default: cross-encoder/ms-marco-MiniLM-L6-v2)
AKIDB_MLX_MODEL names the embedder (default: mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ).
"""

import inspect
import shutil
import statistics
import sys

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker

MODEL = sys.argv[1] if sys.argv[1:] else "cross-encoder/ms-marco-MiniLM-L6-v2"

# What Python says of its own functions.
passages = [
    Document(inspect.cleandoc(function.__doc__), metadata={"name": f"{module.__name__}.{name}"})
    for module in (shutil, statistics, inspect)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__doc__ and not name.startswith("_")
]

store = InMemoryVectorStore.from_documents(passages, AkiDBMLXEmbeddings())
reranker = AkiDBMLXReranker(model=MODEL, top_n=5)
candidates = store.as_retriever(search_kwargs={"k": 50})
retriever = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=candidates)

for question in ("How do I delete a folder with all that is in it?", "Which function gives the middle value?"):
    print(f"{question} {len(candidates.invoke(question))} of {len(passages)} passages found; the best of them:")
    for document in retriever.invoke(question):
        print(f"  {document.metadata['relevance_score']:.3f} {document.metadata['name']}")
