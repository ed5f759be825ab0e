"""A server process → real clients → a real vector store → the right document; the same vectors on every way."""

import base64
import contextlib
import importlib.util
import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from support.checkpoints import MINILM, REFERENCE
from support.comparison import assert_close, close_to
from support.serving import serve_process
from support.waiting import PATIENCE_S, until

DOCUMENTS = [
    "Refunds are paid to the original card within five working days.",
    "Parcels over 20 kg are delivered by freight.",
    'To reset a forgotten password, choose "Forgot password" on the sign-in page.',
    "The warranty covers manufacturing faults for two years.",
    "Our workshop repairs grinders and espresso machines.",
]
QUESTIONS = {"When do I get my money back?": 0, "I cannot log in": 2, "Who fixes my coffee maker?": 4}


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name.partition(".")[0]) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)} (the extra [clients])")


@pytest.fixture(scope="module")
def server():
    options = ("--model", f"minilm={MINILM}", "--model", f"prompts={REFERENCE / 'bert-prompts'}", "--preload")
    with serve_process(*options, variables={"AKIDB_API_KEY": "sesame"}) as server:
        with server.client() as client:
            until(lambda: client.get("/health").status == 200)
        yield server


def plain(server, path, body):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sesame"}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def test_plain_http_and_a_search(server, minilm):
    def embed(texts):
        data = plain(server, "/v1/embeddings", {"input": texts, "model": "minilm"})["data"]
        return np.array([item["embedding"] for item in data], np.float32)

    rows = embed(DOCUMENTS)
    assert_close(rows, minilm.encode(DOCUMENTS))
    for question, right in QUESTIONS.items():
        assert int(np.argmax(embed([question]) @ rows.T)) == right


@needs("openai", "faiss")
def test_the_openai_sdk_and_faiss(server, minilm):
    import faiss
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["minilm", "prompts"]
        assert client.models.retrieve("prompts").id == "prompts"

        def embed(texts, **more):  # the SDK asks for base64 by itself
            answer = client.embeddings.create(input=texts, model="minilm", **more)
            return np.array([item.embedding for item in answer.data], np.float32), answer.usage

        rows, usage = embed(DOCUMENTS)
        assert_close(rows, minilm.encode(DOCUMENTS))
        assert_close(embed(DOCUMENTS, encoding_format="float")[0], rows)
        assert usage.prompt_tokens == usage.total_tokens == sum(minilm.count_tokens(DOCUMENTS))
        assert_close(embed(DOCUMENTS, dimensions=64)[0], minilm.encode(DOCUMENTS, truncate_dim=64))
        assert_close(embed(DOCUMENTS, extra_body={"input_type": "document"})[0], minilm.encode_document(DOCUMENTS))
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        for question, right in QUESTIONS.items():
            assert index.search(embed(question)[0], 1)[1][0, 0] == right
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            client.embeddings.create(input=[1, 2, 3], model="minilm")
        with pytest.raises(openai.NotFoundError, match="no model is served as 'gpt'") as caught:
            client.embeddings.create(input="a", model="gpt")
        assert caught.value.code == "model_not_found"
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.embeddings.create(input="a", model="minilm")


@needs("openai")
async def test_the_async_openai_sdk(server, minilm):
    import asyncio

    import openai

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sesame", max_retries=0) as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(input=text, model="minilm") for text in DOCUMENTS for _ in range(4))
        )
    rows = [answer.data[0].embedding for answer in answers]
    assert_close(rows, np.repeat(minilm.encode(DOCUMENTS), 4, axis=0))


@contextlib.asynccontextmanager
async def openai_connections():
    """What the frameworks' own clients never close."""
    import openai

    with openai.DefaultHttpxClient() as sync:
        async with openai.DefaultAsyncHttpxClient() as async_:
            yield sync, async_


@needs("langchain_openai", "langchain_core")
async def test_langchains_openai_embeddings_and_a_store(server, minilm):
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_openai import OpenAIEmbeddings

    async with openai_connections() as (http_client, http_async_client):
        connection = {"http_client": http_client, "http_async_client": http_async_client}
        server_ = {"model": "minilm", "base_url": f"{server.url}/v1", "api_key": "sesame", **connection}
        embeddings = OpenAIEmbeddings(**server_, check_embedding_ctx_length=False)
        assert_close(embeddings.embed_documents(DOCUMENTS), minilm.encode(DOCUMENTS))
        store = InMemoryVectorStore.from_texts(DOCUMENTS, embeddings)
        for question, right in QUESTIONS.items():
            assert store.similarity_search(question, k=1)[0].page_content == DOCUMENTS[right]
            assert (await store.asimilarity_search(question, k=1))[0].page_content == DOCUMENTS[right]


@needs("llama_index.embeddings.openai_like", "llama_index")
async def test_llamaindexs_openai_like_embedding_and_an_index(server, minilm):
    pytest.importorskip("llama_index.embeddings.openai_like", reason="needs the extra [clients]")
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    async with openai_connections() as (http_client, async_http_client):
        connection = {"http_client": http_client, "async_http_client": async_http_client}
        server_ = {"model_name": "minilm", "api_base": f"{server.url}/v1", "api_key": "sesame", **connection}
        embedding = OpenAILikeEmbedding(**server_)
        assert_close(embedding.get_text_embedding_batch(DOCUMENTS), minilm.encode(DOCUMENTS))
        assert_close(await embedding.aget_text_embedding_batch(DOCUMENTS), minilm.encode(DOCUMENTS))
        index = VectorStoreIndex([TextNode(text=text) for text in DOCUMENTS], embed_model=embedding)
        for question, right in QUESTIONS.items():
            assert index.as_retriever(similarity_top_k=1).retrieve(question)[0].text == DOCUMENTS[right]


def test_every_way_gives_the_same_vectors(server, minilm):
    """Embedder, both encodings, AkiDB's endpoint, the bridge and both adapters: equal to 1e-6."""
    texts = [*DOCUMENTS, "", "  spaces \n and\tlines ", "日本語 🙂", "nul \x00", "long " * 400]
    expected = minilm.encode_document(texts)
    ways = {}
    body = {"input": texts, "model": "minilm"}
    for name, more in (("float", {}), ("document", {"input_type": "document"})):
        data = plain(server, "/v1/embeddings", {**body, **more})["data"]
        ways[name] = [item["embedding"] for item in data]
    data = plain(server, "/v1/embeddings", {**body, "encoding_format": "base64"})["data"]
    ways["base64"] = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]
    ways["akidb"] = plain(server, "/api/v1/embed", {"texts": texts})["embeddings"]
    ways["bridge"] = through_the_bridge(texts)
    if importlib.util.find_spec("langchain_akidb_mlx") and importlib.util.find_spec("langchain_core"):
        from langchain_akidb_mlx import AkiDBMLXEmbeddings

        ways["langchain"] = AkiDBMLXEmbeddings(model=MINILM).embed_documents(texts)
    if importlib.util.find_spec("llama_index_akidb_mlx") and importlib.util.find_spec("llama_index"):
        from llama_index_akidb_mlx import AkiDBMLXEmbedding

        ways["llama_index"] = AkiDBMLXEmbedding(model_name=MINILM).get_text_embedding_batch(texts)
    for name, rows in ways.items():
        assert close_to(rows, expected), name


def through_the_bridge(texts):
    lines = [
        {"method": "load_model", "params": {"model": MINILM}},
        {"method": "embed_batch", "params": {"model": MINILM, "inputs": texts, "normalize": True}},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "akidb_mlx", "bridge"],
        input="\n".join(map(json.dumps, lines)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[1])["embeddings"]
