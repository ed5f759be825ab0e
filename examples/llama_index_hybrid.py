"""Question → answer with LlamaIndex: dense and sparse vectors from one pass, Qdrant, fusion, a reranker, an answer.

pip install "akidb-mlx[llama-index]" llama-index-vector-stores-qdrant
python llama_index_hybrid.py [MODEL [RERANKER [LANGUAGE_MODEL]]]     (folders or Hub ids)
They are BAAI/bge-m3, cross-encoder/ms-marco-MiniLM-L6-v2 and none, which shows the prompt in place of an answer.
"""

import sys
from pydoc_data.topics import topics
from typing import Any

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_akidb_mlx import AkiDBMLXEmbedding, AkiDBMLXRerank, AkiDBMLXSparseEmbedding

DEFAULTS = ("BAAI/bge-m3", "cross-encoder/ms-marco-MiniLM-L6-v2", "")
MODEL, RERANKER, LANGUAGE_MODEL = (*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :])


class LocalModel(CustomLLM):
    model: Any
    tokenizer: Any

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(num_output=200)

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        from mlx_lm import generate

        if self.tokenizer.chat_template is not None:
            messages = [{"role": "user", "content": prompt}]
            prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        return CompletionResponse(text=generate(self.model, self.tokenizer, prompt, max_tokens=200))

    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        yield self.complete(prompt)


def language_model() -> CustomLLM:
    if not LANGUAGE_MODEL:
        return MockLLM()  # which says what it is told
    from mlx_lm import load

    model, tokenizer = load(LANGUAGE_MODEL)
    return LocalModel(model=model, tokenizer=tokenizer)


# What Python's reference says of some words, in passages.
documents = [Document(text=topics[name], doc_id=name) for name in ("try", "with", "lambda", "import", "class")]
passages = SentenceSplitter(chunk_size=100, chunk_overlap=0).get_nodes_from_documents(documents)

dense, sparse = AkiDBMLXEmbedding(model_name=MODEL), AkiDBMLXSparseEmbedding(model_name=MODEL)
store = QdrantVectorStore(
    "passages",
    client=QdrantClient(":memory:"),
    enable_hybrid=True,
    sparse_doc_fn=sparse.qdrant_doc_fn,
    sparse_query_fn=sparse.qdrant_query_fn,
)
index = VectorStoreIndex(passages, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=dense)
print(f"{len(passages)} passages, {dense.load().stats()['rows']} texts read for dense and sparse vectors")

fifty = {"similarity_top_k": 50, "sparse_top_k": 50, "hybrid_top_k": 50}
rerank = AkiDBMLXRerank(model_name=RERANKER, top_n=3)
engine = index.as_query_engine(
    llm=language_model(), vector_store_query_mode="hybrid", node_postprocessors=[rerank], **fifty
)
for question in ("What if the finally clause raises too?", "Can a lambda contain statements?"):
    response = engine.query(question)
    print(f"{question}\n{len(response.source_nodes)} passages kept:", end=" ")
    print(", ".join(str(found.node.ref_doc_id) for found in response.source_nodes), response, sep="\n")
