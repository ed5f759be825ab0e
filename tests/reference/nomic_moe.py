"""NomicBERT with a mixture of experts in every other layer, as torch formulas: no class of transformers computes it.

Written from the papers (Nussbaum and Duderstadt 2025, arXiv:2502.07972; the router and its experts: Gale et al. 2023,
arXiv:2211.15841; rotary positions: Su et al. 2021, arXiv:2104.09864) and the published names and shapes of weights.
text-embeddings-inference, vLLM and llama.cpp agree, but for llama.cpp's GELU and its lack of the experts' bias (read,
not run).
"""

import torch
import transformers as hf
from torch.nn.functional import gelu, layer_norm, linear, softmax


class NomicMoeConfig(hf.PretrainedConfig):
    """transformers' names of sizes; the published ones come with the disguise."""

    model_type = "nomic_moe"
    hidden_size: int = 32
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 40
    vocab_size: int = 280
    type_vocab_size: int = 1
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    num_experts: int = 8
    moe_top_k: int = 2
    moe_every_n_layers: int = 2


class Tree(torch.nn.Module):
    """Parameters under dotted names."""

    def add(self, name: str, *shape: int) -> None:
        first, _, rest = name.partition(".")
        if not rest:
            self.register_parameter(first, torch.nn.Parameter(torch.ones(shape)))
            return
        if first not in self._modules:
            self.add_module(first, Tree())
        self._modules[first].add(rest, *shape)


class NomicMoe(hf.PreTrainedModel):
    """Hidden states of the last layer."""

    config_class = NomicMoeConfig
    mistake = ""  # what an implementation may get wrong; tests/reference/mistakes.py sets it

    def __init__(self, config: NomicMoeConfig) -> None:
        super().__init__(config)
        width, inner, experts = config.hidden_size, config.intermediate_size, config.num_experts
        self.embeddings, self.encoder, self.emb_ln = Tree(), Tree(), torch.nn.LayerNorm(width)
        self.embeddings.word_embeddings = torch.nn.Embedding(config.vocab_size, width)
        self.embeddings.token_type_embeddings = torch.nn.Embedding(config.type_vocab_size, width)
        for index in range(config.num_hidden_layers):
            shapes = {"attn.Wqkv": (3 * width, width), "attn.out_proj": (width, width)}
            if not self.has_experts(index):
                shapes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
            for name, shape in shapes.items():
                self.encoder.add(f"layers.{index}.{name}.weight", *shape)
                self.encoder.add(f"layers.{index}.{name}.bias", shape[0])
            for name in ("norm1", "norm2"):
                self.encoder.add(f"layers.{index}.{name}.weight", width)
                self.encoder.add(f"layers.{index}.{name}.bias", width)
            if self.has_experts(index):
                self.encoder.add(f"layers.{index}.mlp.router.layer.weight", experts, width)
                self.encoder.add(f"layers.{index}.mlp.experts.mlp.w1", experts * inner, width)
                self.encoder.add(f"layers.{index}.mlp.experts.mlp.w2", experts * inner, width)
                self.encoder.add(f"layers.{index}.mlp.experts.bias", width)
        self.post_init()

    def _init_weights(self, module):
        pass

    def has_experts(self, index: int) -> bool:
        return index % self.config.moe_every_n_layers == 1

    def forward(self, input_ids, attention_mask=None, **others):
        weights = dict(self.named_parameters())
        table, types = self.embeddings.word_embeddings.weight, self.embeddings.token_type_embeddings.weight
        x = self.norm(table[input_ids] + types[0], weights, "emb_ln")
        for index in range(self.config.num_hidden_layers):
            own = {name: weights[f"encoder.layers.{index}.{name}"] for name in self.names(weights, index)}
            x = self.norm(x + self.attention(x, attention_mask, own), own, "norm1")
            network = self.mixture if self.has_experts(index) else self.dense
            x = self.norm(x + network(x, own), own, "norm2")
        return hf.modeling_outputs.BaseModelOutput(last_hidden_state=x)

    def names(self, weights, index):
        prefix = f"encoder.layers.{index}."
        return [name.removeprefix(prefix) for name in weights if name.startswith(prefix)]

    def norm(self, x, weights, name):
        return layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], self.config.layer_norm_eps
        )

    def attention(self, x, attention_mask, own):
        heads = self.config.num_attention_heads
        queries, keys, values = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(x, own["attn.Wqkv.weight"], own["attn.Wqkv.bias"]).chunk(3, dim=-1)
        )
        queries, keys = self.turn(queries), self.turn(keys)
        scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, None] == 0, -torch.inf)
        attended = (softmax(scores.float(), dim=-1).to(x.dtype) @ values).transpose(1, 2).flatten(2)
        return linear(attended, own["attn.out_proj.weight"], own["attn.out_proj.bias"])

    def turn(self, x):
        """Channel i and channel i + head / 2 by position × base^(-2 i / head)."""
        half = x.shape[-1] // 2
        frequencies = self.config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(x.shape[2], dtype=torch.float32)[:, None] * frequencies
        cosines, sines = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)

    def dense(self, x, own):
        return linear(
            gelu(linear(x, own["mlp.fc1.weight"], own["mlp.fc1.bias"])), own["mlp.fc2.weight"], own["mlp.fc2.bias"]
        )

    def mixture(self, x, own):
        """Σ p_e · gelu(x · w1_eᵀ) · w2_e over the greatest of the softmax of all, as they are, and a bias once."""
        experts = self.config.num_experts
        router = own["mlp.router.layer.weight"]
        if self.mistake == "router rounded":
            logits = (x.bfloat16() @ router.bfloat16().T).float()
        else:
            exact = torch.promote_types(x.dtype, torch.float32)
            logits = x.to(exact) @ router.to(exact).T
        probabilities = softmax(logits, dim=-1)
        chosen = probabilities.topk(1 if self.mistake == "one expert" else self.config.moe_top_k, dim=-1)
        weights = torch.zeros_like(probabilities).scatter(-1, chosen.indices, chosen.values)
        if self.mistake == "renormalised":
            weights = weights / weights.sum(dim=-1, keepdim=True)
        up, down = (own[f"mlp.experts.mlp.{name}"].unflatten(0, (experts, -1)) for name in ("w1", "w2"))
        if self.mistake == "w2 as its transpose":
            down = down.reshape(experts, x.shape[-1], -1).transpose(1, 2)
        given = torch.zeros_like(x)
        for expert in range(experts):
            one = gelu(x @ up[expert].T) @ down[expert]
            if self.mistake == "bias in each expert":
                one = one + own["mlp.experts.bias"]
            given = given + weights[..., expert, None].to(x.dtype) * one
        return given if self.mistake in ("bias in each expert", "no bias") else given + own["mlp.experts.bias"]


hf.AutoConfig.register("nomic_moe", NomicMoeConfig)
hf.AutoModel.register(NomicMoeConfig, NomicMoe)
