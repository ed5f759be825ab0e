"""Classes of code that checkpoints bring along, and what they do in the words of transformers' own. No MLX here.

A row is found by the classes that config.json and tokenizer_config.json name, never by running one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from akidb_mlx.checkpoint.fact import Fact, value_of
from akidb_mlx.checkpoint.heads import Dense
from akidb_mlx.checkpoint.json_file import read_field
from akidb_mlx.checkpoint.modules import Head
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.checkpoint.said import Said
from akidb_mlx.checkpoint.tokenizer_facts import OwnTokenizer, TokenizerFacts
from akidb_mlx.errors import UnsupportedModelError

__all__ = ["OWN_CODE", "OwnCode", "as_own_code_does"]

Config = Mapping[str, Any]


@dataclass(frozen=True)
class OwnCode:
    """One class."""

    model_type: str
    """The one of transformers that config.json has all the same."""
    model: str
    """What auto_map says under AutoModel."""
    config: Config
    """Fields of config.json that it takes for granted."""
    stated: Config = field(default_factory=dict)
    """Fields that config.json must have besides."""
    tokenizer: str | None = None
    """The tokenizer's own class, which follows `add_eos_token`; None where transformers' serves."""
    linear: str | None = None
    """A linear layer of the main file without bias, which it applies to each token of the last layer."""


OWN_CODE: tuple[OwnCode, ...] = (
    # voyage-4-nano. Read of too: vLLM's VoyageQwen3BidirectionalEmbedModel, text-embeddings-inference.
    OwnCode(
        "qwen3",
        "modeling_qwen3_bidirectional.Qwen3BidirectionalModel",
        {"is_causal": False},
        stated={"use_bidirectional_attention": True},
        linear="linear",
    ),
    # gte-Qwen1.5, gte-Qwen2, stella_en_1.5B_v5: both ways unless a caller says otherwise, which
    # sentence-transformers does not. text-embeddings-inference knows them by this class too.
    OwnCode(
        "qwen2",
        "modeling_qwen.Qwen2Model",
        {"is_causal": False},
        tokenizer="tokenization_qwen.Qwen2TokenizerFast",
    ),
)
# Classes whose rows are not a text's alone.
_REFUSED = {
    "modeling.PPLXQwen3ContextualModel": "gives a vector per chunk of a document, which depends on the other chunks; "
    "that is not supported, pplx-embed-v1 is",
}


def as_own_code_does(said: Said) -> tuple[Said, dict[str, str]]:
    """What the files say with what the code that they name does; the source of each field that it adds to config.json.

    Raises:
        UnsupportedModelError: a class that is known not to give a vector per text.
    """
    code = _find(said.config, said.tokenizer.own_code)
    if code is None:
        return said, {}
    source = f"config.json: auto_map: {code.model}"
    missing = {key: value for key, value in code.config.items() if key not in said.config}
    changed = replace(
        said,
        architecture=replace(said.architecture, value={**said.config, **missing}),
        tokenizer=_with_end_token(said.tokenizer) if code.tokenizer else said.tokenizer,
        head=_with_linear(said, code.linear) if code.linear else said.head,
    )
    return changed, dict.fromkeys(missing, source)


def _find(config: Config, tokenizer: OwnTokenizer | None) -> OwnCode | None:
    """The row of a checkpoint; None where it names no code, or none that is known."""
    named = config.get("auto_map")
    model = str(named.get("AutoModel")) if isinstance(named, Mapping) else ""
    model = model.rpartition("--")[2]  # after the repository that it came from
    if model in _REFUSED:
        raise UnsupportedModelError(f"config.json: auto_map: {model} {_REFUSED[model]}")
    for code in OWN_CODE:
        stated = all(config.get(key) == value for key, value in code.stated.items())
        known = code.tokenizer is None or (tokenizer is not None and tokenizer.name == code.tokenizer)
        if (config.get("model_type"), model) == (code.model_type, code.model) and stated and known:
            return code
    return None


def _with_end_token(tokenizer: TokenizerFacts) -> TokenizerFacts:
    own = tokenizer.own_code
    assert own is not None
    rules = {**tokenizer.tokenizer_rules, "append": own.end} if own.adds_end else tokenizer.tokenizer_rules
    return replace(tokenizer, tokenizer_rules=rules, own_code=None)


def _with_linear(said: Said, name: str) -> Head:
    """The layer after pooling, by the weight's shape: config.json may have lost its width; the same but for max."""
    header = {key: tensor for file in said.layout.weight_files for key, tensor in read_header(file).items()}
    if f"{name}.weight" not in header:
        return said.head
    width = read_field(said.layout.config_file, said.config, "hidden_size", int)
    rows = int(header[f"{name}.weight"]["shape"][0])
    layer = Dense(name, width, rows, bias=False, activation="identity", of_tokens=True)
    return replace(said.head, dense=Fact((layer, *value_of(said.head.dense, ())), f"{name} in the main file"))
