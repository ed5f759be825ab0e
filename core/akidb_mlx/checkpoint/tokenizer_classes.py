"""What transformers 5 builds around a vocabulary, class by class: a table that its own AutoTokenizer checks in tests.

Only what is sure stands here. A class, a model_type or a setting that does not is asked of transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

__all__ = ["BACKENDS", "BY_MODEL_TYPE", "CLASSES", "IDLE_SETTINGS", "KEPT", "OVERRULED", "Of", "TokenizerClass"]


@dataclass(frozen=True)
class Of:
    """A value that the files decide: a setting, or a named token's `content`, `id` or `entry` in a template."""

    name: str
    what: str = "setting"


@dataclass(frozen=True)
class TokenizerClass:
    """A class of transformers 5, its parts in tokenizer.json's own form."""

    input_names: tuple[str, ...]
    """What it gives a model, where tokenizer_config.json says nothing of model_input_names."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Named special tokens, where no file names others."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of tokenizer_config.json that count, and their values where it is silent."""
    model: Any = None
    """But for vocabulary and merges, which are always the file's. A tuple, here and below, holds alternatives."""
    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None
    plain_tokens: bool = False
    """Whether it marks its named tokens anew, without the file's flags."""


KEPT: Final = "the file's own"
_PRECOMPILED: Final = ({"type": "Precompiled", "precompiled_charsmap": KEPT}, None)
# As tokenizers writes it today, and as it did.
_METASPACE: Final = (
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "add_prefix_space": True},
    {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
)
_IDS: Final = ("input_ids", "attention_mask")
_IDS_AND_TYPES: Final = ("input_ids", "token_type_ids", "attention_mask")

_BERT_NORMALIZER: Final = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": Of("tokenize_chinese_chars"),
    "strip_accents": Of("strip_accents"),
    "lowercase": Of("do_lower_case"),
}
_BERT_SETTINGS: Final = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}
_WORDPIECE: Final = {
    "type": ("WordPiece", None),
    "unk_token": Of("unk_token", "content"),
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}
_BPE: Final = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def _template(single: str, pair: str) -> dict[str, Any]:
    """A post-processor: named tokens and $A, $B, each with `:1` where its type is 1."""
    names = sorted({piece.split(":")[0] for piece in pair.split() if not piece.startswith("$")})
    return {
        "type": "TemplateProcessing",
        "single": [_step(piece) for piece in single.split()],
        "pair": [_step(piece) for piece in pair.split()],
        "special_tokens": [Of(name, "entry") for name in names],
    }


def _step(piece: str) -> dict[str, Any]:
    name, _, kind = piece.partition(":")
    if name.startswith("$"):
        return {"Sequence": {"id": name[1:], "type_id": int(kind or 0)}}
    return {"SpecialToken": {"id": Of(name, "content"), "type_id": int(kind or 0)}}


def _sep_and_cls(**more: Any) -> dict[str, Any]:
    token = {name: [Of(f"{name}_token", "content"), Of(f"{name}_token", "id")] for name in ("sep", "cls")}
    return {"type": "RobertaProcessing", **token, **more}


_BERT: Final = TokenizerClass(
    input_names=_IDS_AND_TYPES,
    tokens={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    settings=_BERT_SETTINGS,
    model=_WORDPIECE,
    normalizer=_BERT_NORMALIZER,
    pre_tokenizer={"type": "BertPreTokenizer"},
    post_processor=_template("cls_token $A sep_token", "cls_token $A sep_token $B:1 sep_token:1"),
)
_XLM_TOKENS: Final = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}

CLASSES: Final[Mapping[str, TokenizerClass]] = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": replace(_BERT, input_names=_IDS),
    "MPNetTokenizer": TokenizerClass(
        input_names=_IDS,
        tokens={**_XLM_TOKENS, "unk_token": "[UNK]"},
        settings=_BERT_SETTINGS,
        model=_WORDPIECE,
        normalizer=_BERT_NORMALIZER,
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_sep_and_cls(add_prefix_space=False),
    ),
    "RobertaTokenizer": TokenizerClass(
        input_names=_IDS,
        tokens=_XLM_TOKENS,
        settings={"add_prefix_space": False},
        model=_BPE,
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": Of("add_prefix_space"), "use_regex": True},
        post_processor=_sep_and_cls(add_prefix_space=Of("add_prefix_space")),
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        input_names=_IDS,
        tokens=_XLM_TOKENS,
        model={"type": "Unigram", "unk_id": 3, "byte_fallback": False},
        normalizer=_PRECOMPILED,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]},
        post_processor=_template("bos_token $A eos_token", "bos_token $A eos_token eos_token $B eos_token"),
    ),
    "Qwen2Tokenizer": TokenizerClass(
        input_names=_IDS,
        tokens={"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        settings={"add_prefix_space": False},
        model=_BPE,
        normalizer={"type": "NFC"},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {
                        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
                        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                    },
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": Of("add_prefix_space"), "use_regex": False},
            ],
        },
        post_processor=KEPT,
        plain_tokens=True,
    ),
    "GemmaTokenizer": TokenizerClass(
        input_names=_IDS,
        tokens={
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        model={**_BPE, "unk_token": Of("unk_token", "content"), "fuse_unk": True, "byte_fallback": True},
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        pre_tokenizer={
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        post_processor=KEPT,
    ),
    # The file as it stands.
    "TokenizersBackend": TokenizerClass(
        input_names=_IDS,
        settings={**_BERT_SETTINGS, "add_prefix_space": False},
        model=KEPT,
        normalizer=KEPT,
        pre_tokenizer=KEPT,
        post_processor=KEPT,
    ),
}

# Names in tokenizer_config.json that mean the last of these.
BACKENDS: Final = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "PythonBackend"})

# The class that transformers has for a model_type, None where it has none.
BY_MODEL_TYPE: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(("bert", "distilbert", "nomic_bert", "electra", "ernie"), "BertTokenizer"),
    **dict.fromkeys(("xlm-roberta", "gte"), "XLMRobertaTokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "GemmaTokenizer"),
    "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer",
    "cohere": "CohereTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "mpnet": "MPNetTokenizer",
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
    "roberta": "RobertaTokenizer",
    **dict.fromkeys(("modernbert", "ernie4_5", "nemotron", "phi3", "glm", "glm4", "granite"), "TokenizersBackend"),
    **dict.fromkeys(("ministral3", "mistral", "mixtral", "olmo2", "stablelm", "umt5"), "TokenizersBackend"),
    **dict.fromkeys(("ernie4_5_moe", "granitemoe"), "TokenizersBackend"),
    **dict.fromkeys(("new", "eurobert", "llama", "llama_bidirec", "helium", "seed_oss", "smollm3"), None),
    **dict.fromkeys(("bidirectional_pplx_qwen3", "hunyuan_v1_dense", "ministral3_bidirec"), None),
}
# Those whose class wins over what tokenizer_config.json says.
OVERRULED: Final = frozenset({"ernie4_5", "ernie4_5_moe", "modernbert", "nemotron", "phi3", "qwen2"})

# Keys of tokenizer_config.json that change no id of a text, beside a tokenizer.json.
IDLE_SETTINGS: Final = frozenset(
    {
        "add_bos_token",  # unread beside tokenizer.json
        "add_eos_token",
        "added_tokens_decoder",  # these four are read with the tokens
        "additional_special_tokens",
        "extra_special_tokens",
        "tokenizer_class",
        "backend",
        "chat_template",
        "clean_up_tokenization_spaces",
        "do_basic_tokenize",
        "errors",
        "is_local",
        "legacy",
        "local_files_only",
        "max_len",
        "max_length",
        "model_input_names",
        "model_max_length",
        "name_or_path",
        "never_split",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "padding_side",
        "sp_model_kwargs",
        "special_tokens_map_file",
        "split_special_tokens",  # where it is false
        "stride",
        "tokenizer_file",
        "transformers_version",
        "trim_offsets",
        "truncation_side",
        "truncation_strategy",
        "use_default_system_prompt",
    }
)
