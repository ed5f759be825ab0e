"""Tiny transformers of every family: each function gives a builder, for the table of cases."""

import math

import torch
import transformers as hf
from nomic_moe import NomicMoe, NomicMoeConfig

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# Smaller, for BERT has many cases.
BERT_SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DECODER_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def bert(cls=hf.BertModel, **config):
    sizes = {"vocab_size": 200, "max_position_embeddings": 64}
    return lambda: cls(hf.BertConfig(**{**sizes, **BERT_SHAPE, **config}))


def distilbert(cls=hf.DistilBertModel, **config):
    sizes = {
        "vocab_size": 200,
        "max_position_embeddings": 64,
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
    }
    return lambda: cls(hf.DistilBertConfig(**{**sizes, **config}))


def roberta(cls=hf.RobertaModel, **config):
    """RoBERTa, XLM-RoBERTa and CamemBERT: positions start at padding_idx + 1 = 2."""
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": 280, "max_position_embeddings": 66, "type_vocab_size": 1}
    return lambda: cls(cls.config_class(**{**sizes, **SHAPE, **ids, **config}))


def mpnet(cls=hf.MPNetModel, **config):
    sizes = {"vocab_size": 200, "max_position_embeddings": 66}
    return lambda: cls(hf.MPNetConfig(**{**sizes, **SHAPE, **config}))


def modernbert(cls=hf.ModernBertModel, **config):
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    # Three layers, of which the second and third look 4 tokens to each side.
    layers = {"num_hidden_layers": 3, "local_attention": 8, "global_attn_every_n_layers": 3}
    sizes = {"vocab_size": 200, "max_position_embeddings": 512, "intermediate_size": 32}
    return lambda: cls(hf.ModernBertConfig(**{**SHAPE, **sizes, **ids, **layers, **config}))


def nomic_bert(cls=hf.NomicBertModel, **config):
    sizes = {"vocab_size": 200, "max_position_embeddings": 512}
    return lambda: cls(hf.NomicBertConfig(**{**sizes, **SHAPE, **config}))


def nomic_moe(**config):
    """NomicBERT with experts in the second layer of three, by our own formulas."""
    return lambda: NomicMoe(NomicMoeConfig(**config))


def gte(cls=hf.GteModel, **config):
    sizes = {"vocab_size": 220, "max_position_embeddings": 512}
    return lambda: cls(hf.GteConfig(**{**sizes, **SHAPE, **config}))


def eurobert(cls=hf.EuroBertModel, **config):
    ids = {"vocab_size": 220, "mask_token_id": 3}
    return lambda: cls(hf.EuroBertConfig(**{**DECODER_SHAPE, **ids, **config}))


def t5(cls=hf.T5EncoderModel, **config):
    """T5, mT5 and UMT5: heads together are wider than the model here."""
    sizes = {"vocab_size": 220, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return lambda: cls(cls.config_class(**{**sizes, "decoder_start_token_id": 0, **config}))


def albert(cls=hf.AlbertModel, **config):
    """Five layers of two groups, so that it shows whose turn it is."""
    sizes = {"vocab_size": 220, "max_position_embeddings": 64, "embedding_size": 16}
    layers = {"num_hidden_layers": 5, "num_hidden_groups": 2}
    return lambda: cls(hf.AlbertConfig(**{**SHAPE, **sizes, **layers, **config}))


def electra(cls=hf.ElectraModel, **config):
    sizes = {"vocab_size": 200, "max_position_embeddings": 64, "embedding_size": 16}
    return lambda: cls(hf.ElectraConfig(**{**SHAPE, **sizes, **config}))


def ernie(cls=hf.ErnieModel, **config):
    sizes = {"vocab_size": 200, "max_position_embeddings": 64, "layer_norm_eps": 1e-5, "type_vocab_size": 4}
    return lambda: cls(hf.ErnieConfig(**{**SHAPE, **sizes, "use_task_id": True, **config}))


def deberta(cls=hf.DebertaModel, **config):
    """The first DeBERTa, as its base is published."""
    sizes = {"vocab_size": 280, "max_position_embeddings": 24, "max_relative_positions": -1}
    relative = {"relative_attention": True, "position_biased_input": False, "pos_att_type": "c2p|p2c"}
    return lambda: cls(hf.DebertaConfig(**{**SHAPE, **sizes, **relative, **config}))


def deberta_v2(cls=hf.DebertaV2Model, **config):
    """DeBERTa-v2 and -v3, as v3 is published, with fewer buckets."""
    sizes = {"vocab_size": 220, "max_position_embeddings": 64, "max_relative_positions": -1, "position_buckets": 16}
    relative = {"relative_attention": True, "position_biased_input": False, "pos_att_type": "p2c|c2p"}
    shared = {"share_att_key": True, "norm_rel_ebd": "layer_norm"}
    return lambda: cls(hf.DebertaV2Config(**{**SHAPE, **sizes, **relative, **shared, **config}))


def decoder(cls, **config):
    """Any of transformers' decoders, by its model class."""
    return lambda: cls(cls.config_class(**{"vocab_size": 300, **DECODER_SHAPE, **config}))


def internlm3(**config):
    """Which transformers computes as a Llama."""
    return lambda: hf.LlamaModel(hf.InternLM3Config(**{"vocab_size": 300, **DECODER_SHAPE, **config}))


def gpt(cls, **config):
    """GPT-2 and GPT-J, whose fields have names of their own."""
    sizes = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1}
    return lambda: cls(cls.config_class(**{**sizes, "eos_token_id": 2, "pad_token_id": 0, **config}))


def mixture(cls, **config):
    """Of experts: two are chosen, unless config says otherwise."""
    count = "moe_k" if cls.config_class.model_type == "ernie4_5_moe" else "num_experts_per_tok"
    return decoder(cls, **{count: 2, **config})


def gemma3(cls=hf.Gemma3TextModel, **config):
    """Three layers, so that windows and bases alternate; a head is wider than width / heads."""
    layers = {"num_hidden_layers": 3, "intermediate_size": 32, "sliding_window": 8}
    heads = {"head_dim": 16, "num_key_value_heads": 1, "query_pre_attn_scalar": 24}
    return decoder(cls, **{"vocab_size": 340, **layers, **heads, **config})


def embedding_gemma2(**config):
    """EmbeddingGemma 2's tower for texts: the last of three layers is full, with wider heads and one head of keys."""
    sizes = {"vocab_size": 340, "num_hidden_layers": 3, "intermediate_size": 32, "head_dim": 8, "sliding_window": 4}
    own = {"hidden_size_per_layer_input": 8, "embedding_dim": 24}
    wide = {"per_layer_config": {2: {"head_dim": 16, "num_key_value_heads": 1}}}

    def make():
        model = hf.EmbeddingGemma2TextModel(
            hf.EmbeddingGemma2TextConfig(**{**DECODER_SHAPE, **sizes, **own, **wide, **config})
        )
        for index, layer in enumerate(model.layers):  # no parameters, so that nothing else makes them random
            layer.layer_scalar.fill_(0.5 + 0.3 * index)
        return model

    return make


def lfm2(cls=hf.Lfm2Model, **config):
    """Two convolutions around a layer of attention; a network of 48 channels, two thirds of 64 up to a multiple."""
    layers = {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
    return decoder(cls, **{**layers, "block_multiple_of": 16, **config})


def lfm2_moe(**config):
    """With four experts, of which two are chosen, in all layers but the first; their corrections move the choice."""
    layers = {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1}
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "intermediate_size": 32}
    build = decoder(hf.Lfm2MoeModel, **{**layers, **sizes, **config})

    def make():
        model = build()
        for layer in model.layers:
            if hasattr(layer.feed_forward, "expert_bias"):  # no parameter, so that nothing else makes it random
                layer.feed_forward.expert_bias.copy_(torch.linspace(0.3, -0.3, layer.feed_forward.experts.num_experts))
        return model

    return make


def ntk(rope_theta, factor, head_dim):
    """What the published "ntk" scaling of GTE ("new") amounts to, in the words of transformers 5.

    The base grows by the factor, and every frequency is divided by factor ** (2 / head_dim).
    """
    return {
        "rope_type": "linear",
        "rope_theta": rope_theta * factor,
        "factor": math.pow(factor, 2 / head_dim),
    }
