"""Cut a text where its meaning changes, with LlamaIndex's SemanticSplitterNodeParser.

pip install "akidb-mlx[llama-index]"
(LangChain's SemanticChunker, in langchain-experimental, takes AkiDBMLXEmbeddings in the same way.)
"""

from llama_index.core import Document
from llama_index.core.node_parser import SemanticSplitterNodeParser

from llama_index_akidb_mlx import AkiDBMLXEmbedding

TEXT = """
Cats sleep most of the day. A kitten naps wherever the sun falls. My own cat prefers the sofa. At night she hunts mice.
The central bank raised its rate again. Inflation had reached five percent. Bond prices fell within the hour.
Sourdough rises slowly. Wild yeast makes the gas. A cold night in the fridge makes bread taste stronger.
"""

splitter = SemanticSplitterNodeParser(
    embed_model=AkiDBMLXEmbedding(),
    buffer_size=0,  # neighbours that a sentence is compared together with; more smooths short sentences
    breakpoint_percentile_threshold=75,  # lower cuts more often
)
for number, chunk in enumerate(splitter.get_nodes_from_documents([Document(text=TEXT)]), 1):
    print(f"{number}: {' '.join(chunk.text.split())}")
