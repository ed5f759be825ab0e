"""Change the model under an index without ever serving wrong neighbours.

pip install "akidb-mlx[langchain]"
Vectors of two models may have the same width, and no store notices. The recipe beside the index does.
"""

from pathlib import Path

from langchain_core.vectorstores import InMemoryVectorStore

from akidb_mlx.errors import ConfigError
from langchain_akidb_mlx import AkiDBMLXEmbeddings, ensure_recipe

PASSAGES = [
    "Wild yeast makes sourdough rise.",
    "Twice a day the sea rises and falls, after the moon.",
    "Texts of similar meaning have vectors that point the same way.",
]


def open_index(folder: Path, embeddings: AkiDBMLXEmbeddings) -> InMemoryVectorStore:
    """Open the index of a folder, or build it there; ConfigError where it was made with another recipe."""
    ensure_recipe(folder, embeddings)
    file = folder / "vectors.json"
    if file.exists():
        return InMemoryVectorStore.load(str(file), embeddings)
    store = InMemoryVectorStore.from_texts(PASSAGES, embeddings)
    store.dump(str(file))
    return store


old = AkiDBMLXEmbeddings()
open_index(Path("index-old"), old)
print("built with the old settings")

new = AkiDBMLXEmbeddings(truncate_dim=128)  # or another model, prompt, pooling, …
try:
    open_index(Path("index-old"), new)
except ConfigError as error:
    print("refused:", error)

# The safe way: build the new index beside the old one, which serves meanwhile; then point the program at it.
serving = open_index(Path("index-old"), old)
successor = open_index(Path("index-new"), new)
for name, store in (("old", serving), ("new", successor)):
    print(f"{name}:", store.similarity_search("Why does bread rise?", k=1)[0].page_content)
