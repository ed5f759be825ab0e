"""What an implementation may get wrong and no config can say, as changes of the reference's loaded transformer."""

import torch


def no_relative_bias(model):
    """MPNet without its relative positions."""
    model.encoder.relative_attention_bias.weight.data.zero_()


def keys_of_the_next_head(model):
    """BERT whose heads compare their queries with another head's keys."""
    for layer in model.encoder.layer:
        for parameter in layer.attention.self.key.parameters():
            heads = parameter.data.unflatten(0, (model.config.num_attention_heads, -1))
            parameter.data = heads.roll(1, 0).flatten(0, 1)


def no_t5_bias(model):
    """T5 without its relative positions."""
    model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.zero_()


def first_t5_bias(model):
    """UMT5 whose layers all have the first one's relative positions."""
    tables = [block.layer[0].SelfAttention.relative_attention_bias.weight for block in model.encoder.block]
    for table in tables[1:]:
        table.data = tables[0].data


def scaled_t5(model):
    """T5 with the scale of scores that other transformers have."""
    for block in model.encoder.block:
        attention = block.layer[0].SelfAttention
        attention.q.weight.data /= attention.key_value_proj_dim**0.5


def one_group(model):
    """ALBERT whose layers are all of the first group."""
    groups = model.encoder.albert_layer_groups
    for group in groups[1:]:
        group.load_state_dict(groups[0].state_dict())


def no_task(model):
    """ERNIE without the type of its task."""
    model.embeddings.task_type_embeddings.weight.data.zero_()


def another_task(model):
    """ERNIE with another type of task."""
    table = model.embeddings.task_type_embeddings.weight
    table.data = table.data.roll(1, 0)


def positions_reversed(model):
    """DeBERTa that takes what is before for what is behind."""
    table = model.encoder.rel_embeddings.weight
    table.data = table.data.flip(0)


def no_convolution(model):
    """DeBERTa-v2 without its convolution's neighbours."""
    weight = model.encoder.conv.conv.weight
    weight.data[..., [0, -1]] = 0


def keys_in_turn(model):
    """Heads that take keys in turn (0, 1, 0, 1 …) where they share them in groups (0, 0 …, 1, 1 …)."""
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    order = torch.arange(heads).reshape(groups, -1).T.flatten()
    for layer in model.layers:
        queries, out = layer.self_attn.q_proj.weight, layer.self_attn.o_proj.weight
        queries.data = queries.unflatten(0, (heads, -1))[order].flatten(0, 1)
        out.data = out.unflatten(1, (heads, -1))[:, order].flatten(1, 2)


def experts(mistake):
    """NomicBERT whose mixtures are computed otherwise."""

    def change(model):
        model.mistake = mistake

    return change


NOMIC_MOE = {
    mistake: experts(mistake)
    for mistake in ("renormalised", "w2 as its transpose", "bias in each expert", "no bias", "one expert")
}


def up_before_gate(model):
    """Experts whose two halves are taken for each other."""
    for name, parameter in model.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            parameter.data = parameter.data.roll(parameter.shape[1] // 2, 1)


def experts_shifted(model):
    """Experts under the next one's number."""
    for name, parameter in model.named_parameters():
        if "experts." in name and parameter.ndim == 3:
            parameter.data = parameter.data.roll(1, 0)


def no_correction(model):
    """ERNIE 4.5 that chooses by the softmax alone."""
    for name, parameter in model.named_parameters():
        if name.endswith("e_score_correction_bias"):
            parameter.data.zero_()


def no_shared(model):
    """Qwen2-MoE without the expert for all tokens."""
    for name, parameter in model.named_parameters():
        if name.endswith("shared_expert.down_proj.weight"):
            parameter.data.zero_()


def half_shared(model):
    """Qwen2-MoE whose expert for all tokens has no gate, but a half."""
    for name, parameter in model.named_parameters():
        if name.endswith("shared_expert_gate.weight"):
            parameter.data.zero_()


EXPERTS = {"halves": up_before_gate, "numbers": experts_shifted}
SHARED = {"shared": no_shared, "gate": half_shared}


def no_template(transformer):
    """Texts as they are, where they go through a chat template."""
    transformer.modality_config = {"text": transformer.modality_config["text"]}


def template(**arguments):
    """A chat template with other arguments."""

    def change(transformer):
        transformer.processing_kwargs = {**transformer.processing_kwargs, "chat_template": arguments}

    return change


def no_layer_factor(model):
    """EmbeddingGemma 2 without the factor of each layer."""
    for layer in model.layers:
        layer.layer_scalar.fill_(1)


def no_layer_input(model):
    """EmbeddingGemma 2 whose layers are given nothing of the embeddings."""
    for layer in model.layers:
        layer.ple_block.per_layer_projection.weight.data.zero_()


def gates_in_turn(model):
    """LFM2 whose convolutions take their three products in another order."""
    for layer in model.layers:
        if not layer.is_attention_layer:
            parts = layer.conv.in_proj.weight.data.chunk(3)
            layer.conv.in_proj.weight.data = torch.cat([parts[1], parts[2], parts[0]])


def short_divisors(model):
    """LongRoPE whose long texts have the short ones' divisors."""
    model.rotary_emb.long_inv_freq = model.rotary_emb.inv_freq.clone()


def no_rope_factor(model):
    """Rotary positions without the factor of their sines and cosines."""
    model.rotary_emb.attention_scaling = 1.0


def plain_xielu(model):
    """Apertus whose activations have the scalars that its class begins with."""
    for layer in model.layers:
        layer.mlp.act_fn.alpha_p.data.fill_(0.2)
        layer.mlp.act_fn.alpha_n.data.fill_(0.2)


def unscaled_olmo3(model):
    """OLMo 3 whose full layers have the windowed ones' rotary positions."""
    rotary = model.rotary_emb
    rotary.full_attention_inv_freq, rotary.full_attention_attention_scaling = (
        rotary.sliding_attention_inv_freq.clone(),
        1.0,
    )
