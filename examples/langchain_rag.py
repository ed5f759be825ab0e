"""Question → passages with LangChain: split, embed, keep in Chroma, retrieve; unchanged passages are embedded once.

pip install "akidb-mlx[langchain]" langchain-chroma langchain-text-splitters
AKIDB_MLX_MODEL names the model (default: mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ).
"""

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_text_splitters import RecursiveCharacterTextSplitter

from langchain_akidb_mlx import AkiDBMLXEmbeddings, ensure_recipe

FOLDER = "langchain_rag_index"
DOCUMENTS = {
    "sourdough": "Sourdough rises slowly. Wild yeast makes the gas, and lactic bacteria give the sour taste. "
    "A cold night in the fridge makes the taste stronger.",
    "tides": "Tides follow the moon. Twice a day the sea rises and falls, most of all when sun and moon pull in line.",
    "vectors": "An embedding is a list of numbers. Texts of similar meaning have vectors that point the same way.",
}

embeddings = AkiDBMLXEmbeddings()
# A new folder gets the recipe of its vectors; one with another recipe is refused, instead of finding nonsense.
ensure_recipe(FOLDER, embeddings)
store = Chroma("passages", embeddings, persist_directory=FOLDER)

splitter = RecursiveCharacterTextSplitter(chunk_size=90, chunk_overlap=0, separators=[". "], keep_separator="end")
passages = splitter.split_documents([Document(text, metadata={"source": name}) for name, text in DOCUMENTS.items()])
records = InMemoryRecordManager("passages")  # SQLRecordManager (langchain) remembers beyond this process
records.create_schema()
for attempt in ("first", "second"):
    result = index(passages, records, store, cleanup="full", source_id_key="source", key_encoder="sha256")
    print(f"{attempt} run: {result['num_added']} passages embedded, {result['num_skipped']} known")

retriever = store.as_retriever(search_kwargs={"k": 1})
for question in ("Why is the bread sour?", "What moves the sea?", "How does a computer compare meanings?"):
    (found,) = retriever.invoke(question)
    print(f"{question} → {found.page_content} ({found.metadata['source']})")
