"""Small tokenizers of the kinds that checkpoints carry, made from `corpus.TEXT`, the same on each run."""

import json
from collections import Counter
from math import log

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from corpus import PARAGRAPHS, TEXT

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
XLM_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
# transformers 5 rebuilds a Qwen2Tokenizer with this pattern, whatever tokenizer.json says.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_wordpiece(size=200, lowercase=True, specials=BERT_SPECIALS, layout="[CLS] $A [SEP]", unk="[UNK]"):
    """BERT's kind. Pieces are the letters and the most frequent words and word ends of the corpus."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(TEXT)))
    letters = sorted({letter for word in words for letter in word})
    ends = Counter({f"##{word[-3:]}": count for word, count in words.items() if len(word) > 4})
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters if letter.isalnum())]
    for piece in [*ranked(words), *ranked(ends)]:
        if len(pieces) < size and piece not in pieces:
            pieces.append(piece)
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unk))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = template(tokenizer, layout)
    return register(tokenizer, specials)


def make_byte_bpe(vocab_size=300, specials=("<|endoftext|>",), layout="$A", first_specials=False, more=()):
    """GPT's kind over bytes: no text is unknown. `layout` is what the post-processor makes, `more` is learnt too."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - (0 if first_specials else len(specials)),
        special_tokens=list(specials) if first_specials else [],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([*PARAGRAPHS, *more], trainer)
    register(tokenizer, specials)
    tokenizer.post_processor = template(tokenizer, layout)
    return tokenizer


def make_unigram(vocab_size=220, specials=XLM_SPECIALS, layout="<s> $A </s>", unk="<unk>"):
    """SentencePiece's unigram kind, as XLM-RoBERTa has it: scores are log frequencies, spaces are `▁`."""
    words = Counter(f"▁{word}" for word in TEXT.split())
    letters = Counter(TEXT.replace(" ", "▁"))
    counts = Counter({"▁": letters["▁"]})
    counts.update(letters)
    scored = {piece: log(count / len(TEXT)) for piece, count in counts.items()}
    for word in ranked(words):
        if len(scored) < vocab_size - len(specials):
            scored.setdefault(word, log(words[word] / len(TEXT)))
    pieces = [(special, 0.0) for special in specials]
    pieces += sorted(scored.items(), key=lambda item: (-item[1], item[0]))
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=specials.index(unk)))
    single_spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), single_spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    register(tokenizer, specials)
    tokenizer.post_processor = template(tokenizer, layout)
    return tokenizer


def make_t5_unigram():
    """T5's: an end token, no begin token, words split at any white space."""
    tokenizer = make_unigram(specials=("<pad>", "</s>", "<unk>"), layout="$A </s>")
    tokenizer.normalizer = None  # published files have a table of characters, which transformers keeps
    return split_at_spaces(tokenizer)


def make_albert_unigram():
    """ALBERT's: quotes made plain, no accents, lower case."""
    tokenizer = make_unigram(specials=("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), layout="[CLS] $A [SEP]")
    plain = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    folded = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence([*plain, *folded])
    return split_at_spaces(tokenizer)


def split_at_spaces(tokenizer):
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def make_gemma_bpe(merges=32, layout="<bos> $A <eos>", specials=("<pad>", "<eos>", "<bos>", "<unk>"), prepend=False):
    """Gemma's kind: BPE over characters with byte fallback, spaces replaced by `▁`; Llama 2's with one prepended."""
    letters = sorted(set(TEXT.replace(" ", "▁")))
    trainer = trainers.BpeTrainer(vocab_size=len(letters) + merges, show_progress=False)
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(PARAGRAPHS, trainer)
    learnt = json.loads(trained.to_str())["model"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*specials, *byte_tokens, *sorted(learnt["vocab"], key=learnt["vocab"].get)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    pairs = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prepend else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    register(tokenizer, specials)
    tokenizer.post_processor = template(tokenizer, layout)
    return tokenizer


def ranked(counts):
    """Pieces by falling count, ties by spelling: the same order on each run."""
    return sorted(counts, key=lambda piece: (-counts[piece], piece))


def register(tokenizer, specials):
    """Mark the special tokens, so that they are matched whole and never split."""
    tokens = [AddedToken(special, special=True, normalized=False) for special in specials]
    tokenizer.add_special_tokens(tokens)
    return tokenizer


def template(tokenizer, layout):
    """A post-processor for one text; `layout` like "<s> $A </s>"."""
    specials = [(token, tokenizer.token_to_id(token)) for token in layout.split() if token != "$A"]
    return processors.TemplateProcessing(single=layout, special_tokens=sorted(set(specials)))
