"""EmbeddingService, which AkiDB's Rust provider calls through PyO3."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from akidb_mlx import Embedder, EmbeddingService
from akidb_mlx.errors import ClosedError, ConfigError, ModelNotFoundError
from support.checkpoints import PROMPTS
from support.comparison import assert_close

FOLDER = str(PROMPTS)


@pytest.fixture
def service():
    service = EmbeddingService(FOLDER)
    yield service
    service.close()


def test_plain_lists_of_floats(service):
    vectors = service.embed(["Snow fell.", ""])
    assert [type(vector) for vector in vectors] == [list, list]
    assert {type(number) for vector in vectors for number in vector} == {float}
    with Embedder.load(FOLDER) as embedder:
        assert_close(vectors, embedder.encode_document(["Snow fell.", ""]))
    assert service.embed([]) == []


def test_what_the_model_is(service):
    info = service.get_model_info()
    assert (info["model_name"], info["dimension"], info["max_tokens"]) == (FOLDER, 16, 48)
    assert info["backend"] in ("cpu", "metal", "cuda")
    json.dumps(info)


def test_several_threads(service):
    texts = [[f"harbour {i} {j}" for j in range(1 + i % 5)] for i in range(60)]
    expected = [service.embed(some) for some in texts]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(service.embed, texts), expected, strict=True):
            assert_close(found, wanted)


def test_fields_of_the_configuration(caplog):
    service = EmbeddingService(FOLDER, truncate_dim=4)
    assert len(service.embed(["a"])[0]) == service.get_model_info()["dimension"] == 4
    service.close()


def test_without_a_name_the_configuration_decides(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_MODEL", FOLDER)
    service = EmbeddingService()
    assert service.get_model_info()["model_name"] == FOLDER
    service.close()


def test_mistakes(service):
    with pytest.raises(TypeError, match="texts must be a list of str"):
        service.embed("text")
    with pytest.raises(ModelNotFoundError):
        EmbeddingService("./nowhere")
    with pytest.raises(ConfigError):
        EmbeddingService(FOLDER, pooling="median")


def test_after_closing(service):
    service.close()
    service.close()
    with pytest.raises(ClosedError):
        service.embed(["a"])
