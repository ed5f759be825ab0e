"""GPT-2's weights lie with inputs first in torch's form, and with outputs first in MLX's."""

import shutil

import mlx.core as mx
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import ConfigError
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close
from support.weights import save_weights

PRODUCTS = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def test_a_conversion_by_mlx_lm_gives_the_references_vectors(tmp_path):
    _, facts, reference = read_case("gpt2")
    shutil.copytree(REFERENCE / "gpt2", tmp_path / "model")
    file = str(tmp_path / "model" / "model.safetensors")
    weights = {
        name.replace("transformer.", "model."): mx.contiguous(one.T) if name.endswith(PRODUCTS) else one
        for name, one in mx.load(file).items()
    }
    save_weights(file, weights)
    with Embedder.load(tmp_path / "model", dtype="float32") as embedder:
        assert_close(embedder.encode(facts["texts"]), reference["embeddings"], 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gptj-weighted-mean"])
def test_no_text_has_more_tokens_than_positions(name):
    """Of GPT-J too, whose sines and cosines are a table in the reference."""
    with pytest.raises(ConfigError, match="64"):
        Embedder.load(REFERENCE / name, max_seq_length=65)
