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


def keys_in_turn(model):
    """Heads that take keys in turn (0, 1, 0, 1 …) where they share them in groups (0, 0 …, 1, 1 …)."""
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    order = torch.arange(heads).reshape(groups, -1).T.flatten()
    for layer in model.layers:
        queries, out = layer.self_attn.q_proj.weight, layer.self_attn.o_proj.weight
        queries.data = queries.unflatten(0, (heads, -1))[order].flatten(0, 1)
        out.data = out.unflatten(1, (heads, -1))[:, order].flatten(1, 2)


def no_template(transformer):
    """Texts as they are, where they go through a chat template."""
    transformer.modality_config = {"text": transformer.modality_config["text"]}


def template(**arguments):
    """A chat template with other arguments."""

    def change(transformer):
        transformer.processing_kwargs = {**transformer.processing_kwargs, "chat_template": arguments}

    return change
