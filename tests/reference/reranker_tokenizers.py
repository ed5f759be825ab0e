"""Tokenizers with a layout for pairs, made of those for single texts."""

from collections.abc import Callable, Sequence
from functools import partial

from tiny_tokenizers import (
    XLM_SPECIALS,
    make_albert_unigram,
    make_byte_bpe,
    make_gemma_bpe,
    make_unigram,
    make_wordpiece,
)
from tokenizers import Tokenizer, processors

QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
LLAMA_SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>")
# So often that two newlines are one token, and "yes" and "no" are tokens, as a reranker of yes and no needs.
ANSWERS = "yes\nno\n" * 40 + "a.\n\nb\n\n" * 20


def paired(make: Callable[[], Tokenizer], single: str, pair: str) -> Callable[[], Tokenizer]:
    """The same tokenizer with these layouts, like "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"."""

    def build() -> Tokenizer:
        tokenizer = make()
        words = {word.partition(":")[0] for word in (*single.split(), *pair.split())}
        specials = [(word, tokenizer.token_to_id(word)) for word in sorted(words) if not word.startswith("$")]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=specials)
        return tokenizer

    return build


def byte_bpe(size: int, specials: Sequence[str], more: Sequence[str] = (), first: bool = False) -> partial[Tokenizer]:
    return partial(make_byte_bpe, size, tuple(specials), "$A", first_specials=first, more=tuple(more))


BERT_PAIR = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
bert_tokens = paired(make_wordpiece, "[CLS] $A [SEP]", BERT_PAIR)
bert_one_type_tokens = paired(make_wordpiece, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")
bert_two_separators_tokens = paired(make_wordpiece, "[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]")
cased_tokens = paired(partial(make_wordpiece, lowercase=False), "[CLS] $A [SEP]", BERT_PAIR)
mpnet_tokens = paired(
    partial(make_wordpiece, specials=(*XLM_SPECIALS, "<mask>"), layout="<s> $A </s>", unk="<unk>"),
    "<s> $A </s>",
    "<s> $A </s> </s> $B </s>",
)
roberta_tokens = paired(byte_bpe(280, (*XLM_SPECIALS, "<mask>"), first=True), "<s> $A </s>", "<s> $A </s> </s> $B </s>")
xlm_tokens = paired(
    partial(make_unigram, specials=(*XLM_SPECIALS, "<mask>")), "<s> $A </s>", "<s> $A </s> </s> $B </s>"
)
albert_tokens = paired(make_albert_unigram, "[CLS] $A [SEP]", BERT_PAIR)
DEBERTA_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
deberta_tokens = paired(byte_bpe(280, DEBERTA_SPECIALS, first=True), "[CLS] $A [SEP]", BERT_PAIR)
deberta_v2_tokens = paired(
    partial(make_unigram, specials=DEBERTA_SPECIALS, layout="$A", unk="[UNK]"), "[CLS] $A [SEP]", BERT_PAIR
)
qwen_end_tokens = paired(byte_bpe(300, QWEN_SPECIALS), "$A <|endoftext|>", "$A $B <|endoftext|>")
qwen_bare_tokens = byte_bpe(300, QWEN_SPECIALS)
qwen_answer_tokens = byte_bpe(300, QWEN_SPECIALS, (ANSWERS,))
LLAMA_BEGINS = "<|begin_of_text|> $A"
llama_tokens = paired(byte_bpe(300, LLAMA_SPECIALS), LLAMA_BEGINS, f"{LLAMA_BEGINS} <|begin_of_text|> $B")
llama_once_tokens = paired(byte_bpe(300, LLAMA_SPECIALS), LLAMA_BEGINS, f"{LLAMA_BEGINS} $B")
llama_chat_tokens = byte_bpe(300, (*LLAMA_SPECIALS, "<|im_start|>", "<|im_end|>"), (ANSWERS,))
eurobert_tokens = paired(
    byte_bpe(300, LLAMA_SPECIALS),
    f"{LLAMA_BEGINS} <|end_of_text|>",
    f"{LLAMA_BEGINS} <|end_of_text|> $B <|end_of_text|>",
)
gemma_tokens = paired(make_gemma_bpe, "<bos> $A", "<bos> $A <bos> $B")
gemma_chat_tokens = paired(make_gemma_bpe, "<bos> $A", "<bos> $A $B")
mistral_tokens = paired(make_unigram, "<s> $A", "<s> $A <s> $B")
