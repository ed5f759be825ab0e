"""A server process → real clients → a real vector store → the right document; the same vectors on every way."""

import base64
import contextlib
import gc
import importlib.util
import json
import shutil
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from akidb_mlx import Embedder
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


# Ollama's clients


@pytest.fixture
def left_open():
    """Connections that a client never closes are collected here, where the warning of each is ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def prompted():
    with Embedder.load(REFERENCE / "bert-prompts") as embedder:
        yield embedder


@needs("ollama")
@pytest.mark.filterwarnings("ignore")
def test_the_ollama_package(server, prompted, left_open):
    import ollama

    client = ollama.Client(server.url, headers={"Authorization": "Bearer sesame"})
    for name, expected in (
        ("prompts", prompted.encode(DOCUMENTS)),
        ("prompts:query", prompted.encode_query(DOCUMENTS)),
        ("prompts:document", prompted.encode_document(DOCUMENTS)),
    ):
        answer = client.embed(name, DOCUMENTS, truncate=True, options={"num_ctx": None}, keep_alive="5m")
        assert_close(answer.embeddings, expected)
        assert_close(client.embeddings(name, DOCUMENTS[0]).embedding, expected[0])
    assert "minilm:latest" in [model.model for model in client.list().models]
    assert client.show("minilm").modelinfo["bert.embedding_length"] == 384
    with pytest.raises(ollama.ResponseError, match="there is minilm, prompts"):
        client.embed("nomic-embed-text", "a")
    with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length"):
        client.embed("prompts", "long " * 100, truncate=False)


@needs("langchain_ollama")
@pytest.mark.filterwarnings("ignore")  # of connections that its clients leave open
async def test_langchains_ollama_embeddings(server, prompted, left_open):
    from langchain_ollama import OllamaEmbeddings

    connection = {"base_url": server.url, "client_kwargs": {"headers": {"Authorization": "Bearer sesame"}}}
    documents = OllamaEmbeddings(model="prompts:document", validate_model_on_init=True, **connection)
    queries = OllamaEmbeddings(model="prompts:query", num_ctx=48, **connection)
    assert_close(documents.embed_documents(DOCUMENTS), prompted.encode_document(DOCUMENTS))
    assert_close(await documents.aembed_documents(DOCUMENTS), prompted.encode_document(DOCUMENTS))
    assert_close(queries.embed_query(DOCUMENTS[0]), prompted.encode_query(DOCUMENTS[:1])[0])


@needs("llama_index")
@pytest.mark.filterwarnings("ignore")
async def test_llamaindexs_ollama_embedding(server, prompted, left_open):
    ollama = pytest.importorskip("llama_index.embeddings.ollama", reason="needs the extra [clients]")

    headers = {"headers": {"Authorization": "Bearer sesame"}}
    embedding = ollama.OllamaEmbedding("prompts:document", base_url=server.url, client_kwargs=headers)
    assert_close(embedding.get_text_embedding_batch(DOCUMENTS), prompted.encode_document(DOCUMENTS))
    assert_close(await embedding.aget_text_embedding_batch(DOCUMENTS), prompted.encode_document(DOCUMENTS))


@needs("litellm")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("provider", "path"), [("ollama", ""), ("openai", "/v1"), ("hosted_vllm", "/v1"), ("voyage", "/v1/embeddings")]
)
def test_litellm(server, prompted, monkeypatch, left_open, provider, path):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or its import asks the network for prices
    import litellm

    for side, expected in (("query", prompted.encode_query), ("document", prompted.encode_document)):
        name, base = f"{provider}/prompts:{side}", server.url + path
        answer = litellm.embedding(name, DOCUMENTS, api_base=base, api_key="sesame", max_retries=0)
        assert_close([item["embedding"] for item in answer.data], expected(DOCUMENTS))
        assert answer.usage.prompt_tokens > 0
    litellm.module_level_client.close()
    litellm.in_memory_llm_clients_cache.flush_cache()


@needs("voyageai")
@pytest.mark.filterwarnings("ignore")
def test_voyages_sdk(server, prompted, left_open):
    import voyageai

    client = voyageai.Client("sesame", base_url=f"{server.url}/v1")
    queries = client.embed(DOCUMENTS, "prompts", input_type="query")
    assert_close(queries.embeddings, prompted.encode_query(DOCUMENTS))
    cut = client.embed(DOCUMENTS, "prompts", input_type="document", truncation=True, output_dimension=8)
    assert_close(cut.embeddings, prompted.encode_document(DOCUMENTS, truncate_dim=8))


@pytest.mark.skipif(shutil.which("java") is None, reason="needs a JDK")
@pytest.mark.slow
def test_the_jdks_http_client(server, minilm, tmp_path):
    """LangChain4j's and most JVM clients' transport: it offers h2c with each request."""
    source = tmp_path / "Ask.java"
    source.write_text(
        """
        import java.net.URI;
        import java.net.http.*;
        public class Ask { public static void main(String[] said) throws Exception {
            var client = HttpClient.newHttpClient();
            for (int turn = 0; turn < 2; turn++) {
                var request = HttpRequest.newBuilder(URI.create(said[0])).header("Content-Type", "application/json")
                    .header("Authorization", "Bearer sesame")
                    .POST(HttpRequest.BodyPublishers.ofString(said[1])).build();
                System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
            } } }
        """
    )
    body = json.dumps({"input": DOCUMENTS, "model": "minilm"})
    before = len(server.log)
    asked = subprocess.run(
        ["java", source, f"{server.url}/v1/embeddings", body],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    for line in asked.stdout.splitlines():
        assert_close([item["embedding"] for item in json.loads(line)["data"]], minilm.encode(DOCUMENTS))
    assert {line["level"] for line in server.log[before:]} == {"info"}


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
