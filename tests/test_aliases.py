"""The conversions that AkiDB's aliases name, rebuilt: the reference's vectors through every class, from one load."""

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.pipeline import loaded_model
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from llama_index_akidb_mlx import AkiDBMLXEmbedding
from support.checkpoints import read_case
from support.comparison import assert_close
from support.serving import serving


@pytest.mark.parametrize("name", ["qwen3-embedding-4bit-dwq", "embeddinggemma-300m-4bit"])
def test_every_face_gives_the_references_vectors_from_one_load(name):
    folder, facts, reference = read_case(name)
    texts = [text for text in facts["texts"] if text][:4]
    places = [facts["texts"].index(text) for text in texts]
    query, document = reference["query"][places], reference["document"][places]
    with Embedder.load(folder, dtype="float32") as embedder, serving({"m": embedder.config}) as server:
        assert_close(embedder.encode_query(texts), query, 1e-5)
        langchain = AkiDBMLXEmbeddings(model=str(folder), dtype="float32")
        assert_close(np.array([langchain.embed_query(text) for text in texts]), query, 1e-5)
        assert_close(np.array(langchain.embed_documents(texts)), document, 1e-5)
        llama_index = AkiDBMLXEmbedding(model_name=str(folder), dtype="float32")
        assert_close(np.array(llama_index.get_text_embedding_batch(texts)), document, 1e-5)
        assert_close(np.array([llama_index.get_query_embedding(text) for text in texts]), query, 1e-5)
        with server.client() as client:
            answer = client.embed(texts, "m", input_type="document").json["data"]
            assert_close(np.array([row["embedding"] for row in answer]), document, 1e-5)
        mine = [key for key in loaded_model._loaded if key[1] == folder.resolve()]
        assert len(mine) == 1
