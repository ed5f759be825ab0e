"""Tokenizers of each family in small, changes of their files, and what AutoTokenizer makes of a folder."""

import json
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

TEXTS = [
    "",
    "a tea pot",
    " leading and  two spaces ",
    "Ends in a line\n",
    "Straße É é 東京 ｆｕｌｌ ﬁ",
    "<s> tea </s> [CLS] <mask> a[MASK]b",
    "pots'n'pans 1234 teapots",
    "extra_word\tpot  \n\n tea <|endoftext|>x",
    "an unheard word: qzx.",
]
PAIRS = [*pairwise(TEXTS[1:]), ("tea", ""), ("tea", "tea")]

WORDS = ["tea", "pot", "a", "the", "and", "in", "ends", "s", "leading", "spaces", "two", "é", "東", "1", "2"]
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
XLM = ("<s>", "<pad>", "</s>", "<unk>")
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Family:
    """A model_type, tokenizer_config.json and tokenizer.json that are as the class has them."""

    model_type: str
    said: dict
    make: callable

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "config.json", {"model_type": self.model_type})
        write(folder / "tokenizer_config.json", self.said)
        write(folder / "tokenizer.json", json.loads(self.make().to_str()))
        return folder


def write(file, content):
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _special(tokenizer, tokens, **flags):
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, **flags) for token in tokens])
    return tokenizer


def wordpiece(specials=BERT, roberta=False):
    letters = sorted(set("".join(WORDS) + "qzx.:'[]<>|/_lnodfiu"))
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *(word for word in WORDS if len(word) > 1)]
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    if roberta:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        return _special(_special(tokenizer, specials[:-1]), specials[-1:], lstrip=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _special(tokenizer, specials)


def byte_bpe(specials, before, processor=None, normalizer=None, prefix=""):
    letters = [
        *specials,
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        "te",
        "tea",
        "Ġt",
        "Ġa",
        "Ġp",
        "ot",
        "Ġpot",
        "an",
    ]
    merges = [("t", "e"), ("te", "a"), ("Ġ", "t"), ("Ġ", "a"), ("Ġ", "p"), ("o", "t"), ("Ġp", "ot"), ("a", "n")]
    model = models.BPE(
        {piece: n for n, piece in enumerate(letters)},
        merges,
        continuing_subword_prefix=prefix,
        end_of_word_suffix=prefix,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.normalizer = before, normalizer
    if processor is not None:
        tokenizer.post_processor = processor
    return _special(tokenizer, specials)


def qwen_parts():
    split = pre_tokenizers.Split(Regex(QWEN), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def unigram(normalizer=None):
    letters = sorted(set("".join(WORDS) + "qzx.:'[]<>|/_lnodfiuLES É"))
    pieces = [(token, 0.0) for token in XLM] + [(letter.replace(" ", "▁"), -5.0) for letter in letters]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _special(_special(tokenizer, XLM), ["<mask>"], lstrip=True)


def character_bpe(specials, normalizer, before):
    letters = sorted(set("".join(WORDS) + "qzx.:'[]<>|/_lnodfiuLES▁"))
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "te", "tea", "▁t", "▁a"]
    merges = [("t", "e"), ("te", "a"), ("▁", "t"), ("▁", "a")]
    vocab = {piece: n for n, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, before
    first = "<bos>" if "<bos>" in specials else "<s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A {first}:1 $B:1", special_tokens=[(first, vocab[first])]
    )
    return _special(tokenizer, specials)


_BERT_SAID = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
_XLM_SAID = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>"}
_XLM_SAID |= {"pad_token": "<pad>", "mask_token": "<mask>"}
_GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def _roberta():
    processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return byte_bpe((*XLM, "<mask>"), pre_tokenizers.ByteLevel(add_prefix_space=False), processor)


FAMILIES = {
    "bert": Family("bert", {"tokenizer_class": "BertTokenizer", **_BERT_SAID}, wordpiece),
    "bert without class": Family("bert", _BERT_SAID, wordpiece),
    "nomic": Family("nomic_bert", {"tokenizer_class": "BertTokenizerFast", **_BERT_SAID}, wordpiece),
    "electra": Family("electra", {"tokenizer_class": "ElectraTokenizer", **_BERT_SAID}, wordpiece),
    "distilbert": Family("distilbert", {"tokenizer_class": "DistilBertTokenizer", **_BERT_SAID}, wordpiece),
    "own code": Family("new", {"tokenizer_class": "BertTokenizer", **_BERT_SAID}, wordpiece),
    "mpnet": Family(
        "mpnet",
        {"tokenizer_class": "MPNetTokenizer", **_XLM_SAID, "unk_token": "[UNK]"},
        lambda: wordpiece(("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), roberta=True),
    ),
    "roberta": Family("roberta", {"tokenizer_class": "RobertaTokenizer", **_XLM_SAID}, _roberta),
    "xlm-roberta": Family("xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer", **_XLM_SAID}, unigram),
    "e5-small": Family("bert", {"tokenizer_class": "XLMRobertaTokenizer", **_XLM_SAID}, unigram),
    "gte": Family("gte", _XLM_SAID, unigram),
    "camembert": Family("camembert", {"tokenizer_class": "CamembertTokenizer", **_XLM_SAID}, unigram),
    "qwen3": Family(
        "qwen3",
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        lambda: byte_bpe(("<|endoftext|>", "<|im_end|>"), qwen_parts(), normalizer=normalizers.NFC()),
    ),
    "qwen2 of another class": Family(
        "qwen2",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        lambda: byte_bpe(("<|endoftext|>", "<|im_end|>"), qwen_parts(), normalizer=normalizers.NFC()),
    ),
    "gemma": Family(
        "gemma3_text",
        {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        lambda: character_bpe(
            _GEMMA, normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", behavior="merged_with_previous")
        ),
    ),
    "llama": Family(
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        lambda: character_bpe(("<unk>", "<s>", "</s>"), None, pre_tokenizers.Metaspace(split=False)),
    ),
    "mistral": Family(
        "mistral",
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_eos_token": True},
        lambda: character_bpe(("<unk>", "<s>", "</s>"), None, pre_tokenizers.Metaspace(split=False)),
    ),
    "llama 3": Family(
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<|b|>", "eos_token": "<|e|>"},
        lambda: byte_bpe(("<|b|>", "<|e|>"), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    ),
    "cohere": Family(
        "cohere",
        {"tokenizer_class": "CohereTokenizer", "bos_token": "<BOS_TOKEN>", "pad_token": "<PAD>"},
        lambda: byte_bpe(("<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>"), qwen_parts()),
    ),
    "gpt_neox": Family(
        "gpt_neox",
        {"tokenizer_class": "GPTNeoXTokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|padding|>"},
        lambda: byte_bpe(("<|endoftext|>", "<|padding|>"), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    ),
    "modernbert": Family("modernbert", {"tokenizer_class": "PreTrainedTokenizerFast", **_BERT_SAID}, wordpiece),
    "eurobert": Family("eurobert", {"tokenizer_class": "PreTrainedTokenizerFast", **_BERT_SAID}, wordpiece),
}


# ── changes of the files ─────────────────────────────────────────────────────────────────────────────

_NAMES = ("cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
_PARTS = {
    "post_processor": [
        None,
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {},
        },
    ],
    "normalizer": [
        None,
        {"type": "NFKC"},
        {"type": "Lowercase"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
    "pre_tokenizer": [
        None,
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ],
}
_CLASSES = [
    *("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "MPNetTokenizer", "RobertaTokenizer"),
    *("XLMRobertaTokenizer", "Qwen2Tokenizer", "GemmaTokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"),
    *("TokenizersBackend", "NoSuchTokenizer", None, ""),
]
_SETTINGS = {
    "do_lower_case": (True, False, None),
    "strip_accents": (True, False, None),
    "tokenize_chinese_chars": (True, False),
    "add_prefix_space": (True, False, None),
    "split_special_tokens": (True, False),
    "truncation_side": ("left", "right"),
    "model_input_names": (["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"]),
    "add_bos_token": (True, False),
    "add_eos_token": (True, False),
    "clean_up_tokenization_spaces": (True, False),
    "model_max_length": (7, 512),
    "colour": ("green", None),
    "image_token": ("tea", "extra_word"),
    "additional_special_tokens": (["tea"], ["extra_word"], []),
    "extra_special_tokens": (["tea"], {"one_token": "tea"}, []),
}


def _leaf(random, value):
    """One place in a part, as (holder, key)."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = random.choice(list(keys))
        if not isinstance(value[key], dict | list) or not value[key]:
            return value, key
        value = value[key]


def _change_part(random, files):
    part = random.choice(list(_PARTS))
    files["tokenizer.json"][part] = random.choice(_PARTS[part])


def _change_leaf(random, files):
    part = files["tokenizer.json"][random.choice(list(_PARTS))]
    if part:
        holder, key = _leaf(random, part)
        old = holder[key]
        new = {bool: lambda: not old, int: lambda: 1 - old if old in (0, 1) else old}.get(type(old), lambda: old)()
        holder[key] = new


def _change_model(random, files):
    model = files["tokenizer.json"]["model"]
    key = random.choice([key for key in model if key not in ("vocab", "merges", "dropout", "type")])
    old = model[key]
    model[key] = {bool: lambda: not old, int: lambda: random.choice([2, 3])}.get(type(old), lambda: old)()


def _untyped_model(random, files):
    files["tokenizer.json"]["model"].pop("type", None)


def _change_flag(random, files):
    token = random.choice(files["tokenizer.json"]["added_tokens"] or [{}])
    flag = random.choice(["lstrip", "rstrip", "single_word", "normalized", "special"])
    token[flag] = not token.get(flag)


def _token(content, number, **flags):
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **plain, **flags}


def _size(files):
    vocab = files["tokenizer.json"]["model"]["vocab"]
    return max(len(vocab), *(token["id"] + 1 for token in files["tokenizer.json"]["added_tokens"]), 0)


def _add_token(random, files):
    token = _token("extra_word", _size(files) + random.choice([0, 0, 0, 1]), special=random.random() < 0.5)
    files["tokenizer.json"]["added_tokens"].append(token)


def _add_tokens_out_of_order(random, files):
    number = _size(files)
    files["tokenizer.json"]["added_tokens"] += [_token("extra_word", number + 1), _token("unheard", number)]


def _remove_token(random, files):
    tokens = files["tokenizer.json"]["added_tokens"]
    if tokens:
        tokens.pop(random.randrange(len(tokens)))


def _truncate(random, files):
    cut = {"direction": random.choice(["Left", "Right"]), "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    files["tokenizer.json"]["truncation"] = cut


def _class(random, files):
    name = random.choice(_CLASSES)
    files[random.choice(["tokenizer_config.json", "tokenizer_config.json", "config.json"])]["tokenizer_class"] = name


def _setting(random, files):
    key = random.choice(list(_SETTINGS))
    files["tokenizer_config.json"][key] = random.choice(_SETTINGS[key])


def _value(random, content):
    plain = {"content": content, "lstrip": False, "rstrip": True, "normalized": False, "single_word": False}
    return random.choice([content, content, None, plain, {"__type": "AddedToken", **plain, "special": True}])


def _named(random, files):
    present = [token["content"] for token in files["tokenizer.json"]["added_tokens"]] or ["tea"]
    name = random.choice(["tokenizer_config.json", "special_tokens_map.json"])
    files[name][random.choice(_NAMES)] = _value(random, random.choice([*present, *present, "tea", "unheard"]))


def _forget(random, files):
    said = files["tokenizer_config.json"]
    if said:
        del said[random.choice(list(said))]


def _decoder(random, files):
    tokens = files["tokenizer.json"]["added_tokens"]
    stated = {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}
    change = random.randrange(4)
    if change == 0 and stated:
        token = stated[random.choice(list(stated))]
        token[random.choice(["lstrip", "rstrip", "normalized"])] ^= True
    elif change == 1:
        stated[str(_size(files))] = {key: value for key, value in _token("pot", 0).items() if key != "id"}
    files["tokenizer_config.json"]["added_tokens_decoder"] = stated


def _added_words(random, files):
    files["added_tokens.json"][random.choice(["extra_word", "tea"])] = _size(files)


def _model_type(random, files):
    kinds = ["bert", "roberta", "mpnet", "qwen2", "qwen3", "llama", "mistral", "xlm-roberta", "phi3", "new", "gemma"]
    files["config.json"]["model_type"] = random.choice(kinds)


CHANGES = [
    *(
        _change_part,
        _change_leaf,
        _change_model,
        _untyped_model,
        _change_flag,
        _add_token,
        _add_tokens_out_of_order,
        _remove_token,
        _truncate,
    ),
    *(_class, _setting, _setting, _setting, _named, _named, _forget, _decoder, _decoder, _added_words, _model_type),
]
FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")


def change_files(folder, random, changes=()):
    """These changes of the files, else one to three of all; their names."""
    files = {name: read(folder / name) for name in FILES}
    changes = changes or random.choices(CHANGES, k=random.choice([1, 1, 2, 3]))
    for change in changes:
        change(random, files)
    for name, content in files.items():
        if content:
            write(folder / name, content)
    return [change.__name__ for change in changes]
