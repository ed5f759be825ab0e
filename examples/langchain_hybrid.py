"""Question → answer with LangChain: dense and sparse vectors from one pass, Qdrant, fusion, a reranker, an answer.

pip install "akidb-mlx[langchain]" langchain-classic langchain-qdrant langchain-text-splitters
python langchain_hybrid.py [MODEL [RERANKER [LANGUAGE_MODEL]]]     (folders or Hub ids)
They are BAAI/bge-m3, cross-encoder/ms-marco-MiniLM-L6-v2 and none, which shows the prompt in place of an answer.
"""

import sys
from pydoc_data.topics import topics

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from langchain_text_splitters import RecursiveCharacterTextSplitter

from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker
from langchain_akidb_mlx.sparse import AkiDBMLXSparseEmbeddings

DEFAULTS = ("BAAI/bge-m3", "cross-encoder/ms-marco-MiniLM-L6-v2", "")
MODEL, RERANKER, LANGUAGE_MODEL = (*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :])
PROMPT = PromptTemplate.from_template(
    "Answer the question from these passages of Python's reference alone.\n\n{passages}\n\nQuestion: {question}"
)

# What Python's reference says of some words, in passages.
documents = [Document(topics[name], metadata={"topic": name}) for name in ("try", "with", "lambda", "import", "class")]
passages = RecursiveCharacterTextSplitter(chunk_size=400, chunk_overlap=0).split_documents(documents)

dense = AkiDBMLXEmbeddings(model=MODEL)
store = QdrantVectorStore.from_documents(
    passages,
    dense,
    sparse_embedding=AkiDBMLXSparseEmbeddings(model=MODEL),
    retrieval_mode=RetrievalMode.HYBRID,
    location=":memory:",
    collection_name="passages",
)
print(f"{len(passages)} passages, {dense.load().stats()['rows']} texts read for dense and sparse vectors")

candidates = store.as_retriever(search_kwargs={"k": 50})  # by reciprocal rank fusion
reranker = AkiDBMLXReranker(model=RERANKER, top_n=3)
retriever = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=candidates)


def together(found: list[Document]) -> str:
    print(f"{len(found)} passages kept:", ", ".join(document.metadata["topic"] for document in found))
    return "\n\n".join(document.page_content for document in found)


def answer(prompt: str) -> str:
    if not LANGUAGE_MODEL:
        return prompt
    from mlx_lm import generate, load

    model, tokenizer = load(LANGUAGE_MODEL)  # a real program keeps them
    if tokenizer.chat_template is not None:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    return generate(model, tokenizer, prompt, max_tokens=200)


chain = (
    {"passages": retriever | together, "question": RunnablePassthrough()}
    | PROMPT
    | RunnableLambda(lambda prompt: answer(prompt.to_string()))
)
for question in ("What if the finally clause raises too?", "Can a lambda contain statements?"):
    print(f"{question}\n{chain.invoke(question)}")
