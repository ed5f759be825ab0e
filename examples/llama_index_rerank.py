"""Retrieve 50, rerank to 5 with LlamaIndex: a fast search finds candidates, a reranker reads each with the question.

pip install "akidb-mlx[llama-index]"
python llama_index_rerank.py [RERANKER]    (a folder or a Hub id; default: cross-encoder/ms-marco-MiniLM-L6-v2)
AKIDB_MLX_MODEL names the embedder (default: mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ).
"""

import inspect
import shutil
import statistics
import sys

from llama_index.core import VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode

from llama_index_akidb_mlx import AkiDBMLXEmbedding, AkiDBMLXRerank

MODEL = sys.argv[1] if sys.argv[1:] else "cross-encoder/ms-marco-MiniLM-L6-v2"

# What Python says of its own functions.
passages = [
    TextNode(text=inspect.cleandoc(function.__doc__), id_=f"{module.__name__}.{name}")
    for module in (shutil, statistics, inspect)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__doc__ and not name.startswith("_")
]

index = VectorStoreIndex(passages, embed_model=AkiDBMLXEmbedding())
rerank = AkiDBMLXRerank(model_name=MODEL, top_n=5, keep_retrieval_score=True)
llm = MockLLM(max_tokens=1)  # yours, in its place
engine = index.as_query_engine(llm=llm, similarity_top_k=50, node_postprocessors=[rerank])

for question in ("How do I delete a folder with all that is in it?", "Which function gives the middle value?"):
    found = index.as_retriever(similarity_top_k=50).retrieve(question)
    print(f"{question} {len(found)} of {len(passages)} passages found; the best of them:")
    for node in engine.query(question).source_nodes:
        print(f"  {node.score:.3f} {node.node_id} (cosine {node.metadata['retrieval_score']:.3f})")
