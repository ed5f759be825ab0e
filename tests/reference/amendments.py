"""What checkpoints' own code computes and no class of transformers does, as changes of the class that is loaded.

Written from what the publishers say of it, for that code is never run.
"""

import functools

import torch


def centre_convolutions(model, *, zeroes_padding=True):
    """Lfm2BidirectionalModel's convolutions (LFM2.5): each token is the middle one of those it reads.

    Liquid AI's embedder zeroes padding before each; its late-interaction model does not, for queries are filled up.
    """
    for layer in model.layers:
        if not layer.is_attention_layer:
            layer.conv.forward = functools.partial(_centred, layer.conv, zeroes_padding)


def causal_convolutions(model):
    """The class's own again."""
    for layer in model.layers:
        if not layer.is_attention_layer:
            del layer.conv.forward


def forget_lengths(model):
    """Dynamic rotary positions as they are for a model's first text: the class keeps those of the longest so far."""

    def forget(rotary, _):
        rotary.inv_freq, rotary.max_seq_len_cached = rotary.original_inv_freq, rotary.original_max_seq_len

    model.rotary_emb.register_forward_pre_hook(forget)


def _centred(conv, zeroes_padding, hidden_states, cache=None, attention_mask=None, **_):
    if attention_mask is not None and zeroes_padding:
        hidden_states = hidden_states * attention_mask[:, :, None].to(hidden_states.dtype)
    before, after, values = conv.in_proj(hidden_states).chunk(3, dim=-1)
    taps, length = conv.conv.weight.shape[-1], hidden_states.shape[1]
    given = torch.nn.functional.pad((before * values).transpose(1, 2), (taps // 2, taps - 1 - taps // 2))
    mixed = torch.nn.functional.conv1d(given, conv.conv.weight, conv.conv.bias, groups=given.shape[1])
    assert mixed.shape[-1] == length
    return conv.out_proj(after * mixed.transpose(1, 2))
