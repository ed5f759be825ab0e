"""EmbeddingGemma 2's tower for texts: what its class knows by itself, and what is refused."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.config_defaults import complete_config
from akidb_mlx.errors import AkiDBMLXError, UnsupportedModelError
from akidb_mlx.model.architectures import make_backbone
from support.batches import batch_of
from support.checkpoints import REFERENCE
from support.weights import save_weights

WHOLE, TOWER = REFERENCE / "embedding-gemma2", REFERENCE / "embedding-gemma2-text"


def completed(folder, text=None, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    if text is not None:
        config["text_config"] = config["text_config"] | text
    return complete_config(config, file).config


def with_weights(target, edit):
    shutil.copytree(WHOLE, target)
    file = str(target / "model.safetensors")
    save_weights(file, edit(mx.load(file)))
    return target


def test_the_published_model_needs_no_more_than_its_types():
    """Of the class: 24 layers, every sixth full with heads of 512 that share one of keys, 768 numbers."""
    backbone = make_backbone(complete_config({"model_type": "embedding_gemma2"}, WHOLE / "config.json").config)
    assert backbone.width == 768
    assert [layer.attention._head for layer in backbone.layers] == [256, 256, 256, 256, 256, 512] * 4
    assert [layer.attention._kv_heads for layer in backbone.layers] == [2, 2, 2, 2, 2, 1] * 4
    assert backbone._window == 512


def test_the_last_layer_is_full_whatever_is_said():
    config = completed(TOWER, layer_types=["full_attention", "sliding_attention"])
    assert (
        make_backbone(config | {"global_head_dim": 8, "num_global_key_value_heads": 2})._kinds[-1] == "full_attention"
    )


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            {"per_layer_config": {"2": {"intermediate_size": 8}}},
            {},
            "per_layer_config says .'intermediate_size': 8. of",
        ),
        ({"per_layer_config": {"0": {"head_dim": 4}}}, {}, "layers of one kind with heads of two"),
        ({"per_layer_config": {"7": {"head_dim": 4}}}, {}, "per_layer_config says"),
        ({"final_scale": 2}, {}, "'final_scale' .2. is not known for embedding_gemma2"),
        ({"layer_types": ["chunked_attention", "full_attention", "full_attention"]}, {}, "chunked_attention"),
        (None, {"text_config": [1]}, "text_config must be an object"),
        ({"is_causal": True}, {}, "is_causal is true"),
    ],
)
def test_what_is_not_computed_is_refused(text, changes, message):
    with pytest.raises(AkiDBMLXError, match=message):
        make_backbone(completed(WHOLE, text, **changes))


def test_other_towers_are_left_out_by_their_names_alone(tmp_path):
    further = {"language_model.layers.0.self_attn.v_norm.weight": mx.ones(8)}
    folder = with_weights(tmp_path / "model", lambda weights: weights | further)
    with pytest.raises(UnsupportedModelError, match=r"does not use: layers\.0\.attention\.v_norm\.weight"):
        Embedder.load(folder)


def test_float16_is_refused():
    with pytest.raises(UnsupportedModelError, match="embedding_gemma2 overflows in float16"):
        Embedder.load(WHOLE, dtype="float16")


def test_a_token_in_whose_place_an_image_comes_counts_as_padding():
    backbone = make_backbone(completed(WHOLE, image_token_id=50))
    mx.eval(backbone.parameters())
    ids = np.array([[2, 7, 50, 9, 1]])
    assert mx.array_equal(backbone(batch_of(ids)), backbone(batch_of(np.where(ids == 50, 0, ids))))
    others = make_backbone(completed(WHOLE))
    others.update(backbone.parameters())
    assert not mx.array_equal(others(batch_of(ids)), backbone(batch_of(ids)))
