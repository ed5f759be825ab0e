"""The reference checkpoints reach the attention kernels that GPUs have: Metal's start at heads of 64 channels.

Read from what is committed: a checkpoint that goes, or is made anew with other sizes, takes its kernel's test with it.
"""

import json
from dataclasses import dataclass

import pytest

from akidb_mlx.model.architectures.decoder_table import DECODERS
from support.checkpoints import REFERENCE

# A text on either side of where a kernel ends: 8 tokens (4 where eight heads share keys), tiles of 32 and 64.
LENGTHS = {4, 5, 8, 9, 32, 33, 64, 65}


@dataclass(frozen=True)
class Attention:
    """What decides which kernel computes a checkpoint's attention."""

    head: int
    """Channels."""
    heads: int
    kv_heads: int
    causal: bool
    window: int | None
    """Tokens that a layer of the checkpoint sees, to one side or both together."""
    bias: bool
    stored_dtype: str
    lengths: frozenset[int]


def read_attention(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    heads = next(config[name] for name in ("num_attention_heads", "num_heads", "n_head") if name in config)
    width = next(config[name] for name in ("hidden_size", "d_model", "n_embd") if name in config)
    windowed = "sliding_attention" in config.get("layer_types", ())
    stated = [config, *config.get("per_layer_config", {}).values()]
    return Attention(
        head=max(
            (one["head_dim"] for one in stated if one.get("head_dim")), default=config.get("d_kv") or width // heads
        ),
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        causal=config["model_type"] in DECODERS
        and config.get("is_causal", True)
        and not config.get("use_bidirectional_attention"),
        window=(config.get("local_attention") or config["sliding_window"]) if windowed else None,
        bias=config["model_type"] in ("deberta-v2", "mpnet", "t5"),
        stored_dtype=facts["stored_dtype"],
        lengths=frozenset(map(len, facts["token_ids"])),
    )


WIDE = {folder.name: read_attention(folder) for folder in sorted(REFERENCE.glob("heads-*"))}


@pytest.mark.parametrize("name", WIDE)
def test_each_folder_is_what_its_name_says(name):
    assert WIDE[name].head == int(name.split("-")[1])


@pytest.mark.parametrize("head", [64, 96, 128, 256])
def test_every_head_size(head):
    assert [name for name, attention in WIDE.items() if attention.head == head]


@pytest.mark.parametrize("shared", [4, 8])
def test_heads_that_share_keys(shared):
    """With two heads of keys at least: with one any order of the groups is right."""
    assert [name for name, one in WIDE.items() if one.heads == shared * one.kv_heads and one.kv_heads >= 2]


def test_all_are_stored_in_16_bit():
    """So that a GPU computes in 16 bit, and in float32 on request."""
    assert {attention.stored_dtype for attention in WIDE.values()} == {"float16", "bfloat16"}


# Mask → whether a checkpoint needs it.
MASKS = {
    "padding": lambda one: not (one.causal or one.window or one.bias),
    "causal": lambda one: one.causal and not one.window,
    "causal window": lambda one: one.causal and one.window,
    "symmetric window": lambda one: one.window and not one.causal,
    "bias": lambda one: one.bias,
}


@pytest.mark.parametrize("mask", MASKS)
def test_every_kind_of_mask(mask):
    assert [name for name, attention in WIDE.items() if MASKS[mask](attention)]


@pytest.mark.parametrize("name", WIDE)
def test_lengths_on_both_sides_of_every_edge(name):
    lengths, window = WIDE[name].lengths, WIDE[name].window
    assert lengths >= LENGTHS
    assert max(lengths) > 2 * (window or 0)
