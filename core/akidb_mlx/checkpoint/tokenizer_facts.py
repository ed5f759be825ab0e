"""What the files say of the tokenizer, and how long a text may be. No MLX here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.processing import Processing, read_processing
from akidb_mlx.checkpoint.sentence_config import read_sentence_config
from akidb_mlx.checkpoint.special_tokens import read_special_tokens
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["OwnTokenizer", "TokenizerFacts", "read_tokenizer_facts"]

Config = Mapping[str, Any]
# Where positions are a table; RoBERTa's kin count from pad_token_id + 1, so that 514 rows hold 512 tokens.
_LEARNED_POSITIONS = {
    "albert": "from zero",
    "bert": "from zero",
    "camembert": "after padding",
    "distilbert": "from zero",
    "electra": "from zero",
    "ernie": "from zero",
    "gpt2": "from zero",
    "gptj": "from zero",
    "mpnet": "after padding",
    "roberta": "after padding",
    "xlm-roberta": "after padding",
}


# Classes that put their end token after each text where add_eos_token says so → the token where none is named. Such
# models were trained with it; transformers 5 leaves the flag unread (docs/parity.md).
_END_TOKENS = {"LlamaTokenizer": "</s>", "CodeLlamaTokenizer": "</s>", "GemmaTokenizer": "<eos>"}


@dataclass(frozen=True)
class OwnTokenizer:
    """A tokenizer's class in a checkpoint."""

    name: str
    end: str
    """The end token."""
    adds_end: bool
    """Whether tokenizer_config.json has it put after each text (`add_eos_token`)."""


@dataclass(frozen=True)
class TokenizerFacts:
    """How a text becomes tokens, and how many; the fields are `Checkpoint`'s."""

    max_seq_length: Fact[int | None] | None = None
    max_positions: int | None = None
    do_lower_case: bool = False
    truncation_side: str | None = None
    """None where tokenizer_config.json is silent."""
    tokenizer_rules: Mapping[str, Any] = field(default_factory=dict)
    has_own_length: bool = False
    """Whether sentence-transformers' file for the transformer states the length."""
    task: str | None = None
    """What that file says that the transformer is for."""
    processing: Processing = field(default_factory=Processing)
    own_code: OwnTokenizer | None = None
    """A tokenizer whose code lies in the checkpoint: it is never run."""


def read_tokenizer_facts(
    layout: Layout, config: Config, *, saved: bool, scores: bool = False, further: Collection[str] = ()
) -> TokenizerFacts:
    """As sentence-transformers, for an embedder or (`scores`) a reranker, `saved` by it or not.

    `further`: keys of its file for the transformer that the caller accounts for.

    The length is what holds for each call, else its own max_seq_length, else the lesser of tokenizer and positions. A
    table of learned positions bounds either, which there would end in an index error.
    """
    file = layout.folder / "tokenizer_config.json"
    tokenizer = read_json(file) if file.exists() else {}
    side = tokenizer.get("truncation_side")
    if side not in ("left", "right") and "truncation_side" in tokenizer:
        raise CheckpointError(f"{file}: truncation_side is {side!r}; it must be left or right")
    names = tokenizer.get("model_input_names")
    if isinstance(names, list) and "attention_mask" not in names:
        raise UnsupportedModelError(
            f"{file}: model_input_names has no attention_mask, without which the reference takes padding for text; "
            "add it"
        )
    sentence = read_sentence_config(layout.folder, scores=scores, further=further)
    processing = read_processing(sentence) if saved else Processing()
    own: Fact[int] | None = None
    if processing.max_length is not None:
        own = processing.max_length
    elif sentence is not None and sentence.max_seq_length is not None:
        own = Fact(sentence.max_seq_length, layout.relative(sentence.file))
    is_bound = config["model_type"] in _LEARNED_POSITIONS
    positions = _positions(layout, config)
    limits = [own or _tokenizer_limit(tokenizer, layout.relative(file))]
    if own is None or is_bound:
        limits.append(positions)
    if processing.truncation == "do_not_truncate":
        limits = [positions if is_bound else None]
    length = min((limit for limit in limits if limit), key=lambda limit: limit.value, default=None)
    if length is not None and length.value < 1:
        raise CheckpointError(f"{layout.path / length.source} states a length of {length.value} tokens")
    return TokenizerFacts(
        max_seq_length=length,
        # Where positions rotate there is one for any token.
        max_positions=positions.value if positions and is_bound else None,
        do_lower_case=sentence is not None and sentence.do_lower_case,
        truncation_side=side,
        tokenizer_rules={**_end_token(tokenizer), **_named(layout, tokenizer, config)},
        has_own_length=own is not None,
        task=None if sentence is None else sentence.task,
        processing=processing,
        own_code=_own_code(tokenizer),
    )


def _positions(layout: Layout, config: Config) -> Fact[int] | None:
    """How many tokens have a position."""
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if not isinstance(positions, int) or isinstance(positions, bool) or positions < 1:
        return None
    if _LEARNED_POSITIONS.get(config["model_type"]) == "after padding":
        fixed = config["model_type"] == "mpnet"  # counts from 2 whatever pad_token_id says
        positions -= 2 if fixed else read_field(layout.config_file, config, "pad_token_id", int) + 1
    return Fact(positions, layout.relative(layout.config_file))


def _tokenizer_limit(tokenizer: Config, source: str) -> Fact[int] | None:
    limit = tokenizer.get("model_max_length")
    # 1e30 stands for "no limit".
    return Fact(int(limit), source) if isinstance(limit, int | float) and 0 < limit < 10**9 else None


def _end_token(tokenizer: Config) -> dict[str, str]:
    """The token that the file says stands after each text, where tokenizer.json may have left it out."""
    default = _END_TOKENS.get(str(tokenizer.get("tokenizer_class")).removesuffix("Fast"))
    if default is None or tokenizer.get("add_eos_token") is not True:
        return {}
    return {"append": _content(tokenizer.get("eos_token")) or default}


def _named(layout: Layout, tokenizer: Config, config: Config) -> dict[str, list[str]]:
    """The special tokens that count as such at a prompt's end, where the class has no defaults: only those named."""
    kind = str(tokenizer.get("tokenizer_class")).removesuffix("Fast")
    if kind not in ("PreTrainedTokenizer", "TokenizersBackend") or config["model_type"] == "qwen2":
        return {}
    return {"named_specials": sorted(read_special_tokens(layout.folder, tokenizer).contents)}


def _own_code(tokenizer: Config) -> OwnTokenizer | None:
    said = tokenizer.get("auto_map")
    named = said.get("AutoTokenizer") if isinstance(said, Mapping) else None
    if not named:
        return None
    names = [name for name in (named if isinstance(named, list) else [named]) if name]
    if not names:
        return None
    name = str(names[-1]).rpartition("--")[2]  # after the repository that it came from
    return OwnTokenizer(name, _content(tokenizer.get("eos_token")), tokenizer.get("add_eos_token") is True)


def _content(token: Any) -> str:
    """A special token, as a string or an object of its own."""
    return str(token.get("content") or "") if isinstance(token, Mapping) else str(token or "")
