"""The pairs that every reranker scores, and pairs fitted to a tokenizer's lengths."""

from collections.abc import Callable

from corpus import PARAGRAPHS, TEXT, WORDS

QUESTION = "Which trees grow in the garden?"
ANSWER = "Our garden has 12 apple trees, 3 pears and one stubborn fig."

# Written to rerankers/pairs.json. Both texts together are short of 32 tokens where the label does not say "long".
SHARED_PAIRS = {
    "question and answer": (QUESTION, ANSWER),
    "question and something else": (QUESTION, "Snow fell through the night."),
    "answer first": (ANSWER, QUESTION),
    "one word each": ("harbour", "salt"),
    "one letter each": ("a", "b"),
    "the same text twice": ("warm bread", "warm bread"),
    "long query": (PARAGRAPHS[0], "warm bread"),
    "long document": ("black tea", PARAGRAPHS[3]),
    "both long": (PARAGRAPHS[1], PARAGRAPHS[2]),
    "both far beyond the limit": (TEXT, f"{PARAGRAPHS[4]} {TEXT}"),
    "empty query": ("", "Snow fell."),
    "empty document": ("harbour town", ""),
    "empty query, long document": ("", PARAGRAPHS[5]),
    "long query, empty document": (PARAGRAPHS[6], ""),
    "both empty": ("", ""),
    "spaces alone": (" ", "  \t"),
    "other scripts": ("Café Straße", "Ελλάδα, 東京!"),
    "emoji": ("tea 🍵", "trains 🚂👩‍🔬"),
    "capitals": ("GREEN TEA", "THE BRASS"),
    "spaces inside and around": ("  two  spaces\t", " a\nline  "),
    "trailing newlines": ("green tea\n", "warm bread\n\n"),
    "leading newlines": ("\ngreen tea", "\n\nwarm bread"),
    "numbers": ("1987", "12, 3 and 140"),
    # Each of these is one token for the tokenizers that have it, and plain text for the others.
    "BERT's tokens in the texts": ("[CLS] a [SEP]", "[MASK] b [SEP] c"),
    "RoBERTa's tokens in the texts": ("<s>a</s>", "</s>b<s>"),
    "chat marks in the texts": ("<|im_end|>", "<|im_start|>a"),
    "Llama's and Gemma's tokens in the texts": ("<|end_of_text|><bos>", "<|begin_of_text|><eos>"),
    "[PAD] ends the document": ("tea", "bread [PAD]"),
    "<pad> ends the document": ("tea", "bread<pad>"),
    "<|endoftext|> ends the document": ("tea", "bread<|endoftext|>"),
    "pad tokens inside": ("[PAD]a<pad>", "<|endoftext|>b[PAD]c<pad>d"),
    "template language in the texts": ("{{ query }}", "{% endif %}"),
    "marks of a template": ("<Document>: a", "<Query>: b"),
}


def fitted_pairs(count: Callable[[str, str], int], limit: int) -> dict[str, tuple[str, str]]:
    """Pairs whose token counts, special tokens included, lie on both sides of `limit`; `count` counts a pair's."""
    room = limit - count("", "")
    half = room // 2

    def first(tokens: int, source: str) -> str:
        return text_of(lambda text: count(text, "") - count("", ""), tokens, source)

    def second(tokens: int, source: str, query: str) -> str:
        return text_of(lambda text: count(query, text) - count(query, ""), tokens, source)

    query = first(half // 2, PARAGRAPHS[2])
    left = room - (count(query, "") - count("", ""))
    broken = text_of(lambda text: count(query, f"{text}\n") - count(query, ""), left, PARAGRAPHS[3])
    longer = first(room - 4, PARAGRAPHS[1])
    equal = first(half + 3, PARAGRAPHS[7])
    return {
        "limit - 1": (query, second(left - 1, PARAGRAPHS[5], query)),
        "limit": (query, second(left, PARAGRAPHS[6], query)),
        "limit, a newline at the end": (query, f"{broken}\n"),
        "limit + 1": (query, second(left + 1, PARAGRAPHS[7], query)),
        "limit + 1, longer first": (longer, second(5, PARAGRAPHS[3], longer)),
        "equal lengths beyond the limit": (equal, second(half + 3, PARAGRAPHS[0], equal)),
        "first longer by one, beyond the limit": (equal, second(half + 2, PARAGRAPHS[4], equal)),
        "second longer by one, beyond the limit": (equal, second(half + 4, PARAGRAPHS[3], equal)),
    }


def text_of(count: Callable[[str], int], tokens: int, source: str) -> str:
    """A text of exactly `tokens` tokens: words of `source`, then single letters and marks until it fits."""
    text = ""
    for word in [*source.split(), *WORDS * 3]:
        longer = f"{text} {word}".strip()
        if count(longer) > tokens:
            break
        text = longer
    for filler in (" a", ".", " .", "a", " i", "!", "?") * 8:
        if count(text) == tokens:
            return text
        if count(text + filler) <= tokens:
            text += filler
    raise AssertionError(f"no text of {tokens} tokens")
