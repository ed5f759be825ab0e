"""The texts that every sparse encoder encodes."""

from corpus import PARAGRAPHS, TEXT

# Written to sparse/texts.json.
SHARED_TEXTS = {
    "empty": "",
    "one letter": "a",
    "one word": "harbour",
    "sentence": "Snow fell through the night.",
    "question": "Which trees grow in the garden?",
    "a word again and again": "bread bread warm bread bread",
    "spaces": "  two  spaces\tand a tab\nand a line  ",
    "unicode": "Café naïve Straße, Ελλάδα, 東京 and 日本語!",
    "emoji": "tea 🍵 and trains 🚂",
    "capitals": "THE ORCHESTRA TUNES",
    "numbers": "1987, 12, 3 and 140",
    "BERT's tokens in the text": "[CLS] a [SEP] [MASK] b [PAD]",
    "RoBERTa's tokens in the text": "<s>a</s> <mask> b<pad>c",
    "paragraph": PARAGRAPHS[3],
    "far beyond the limit": TEXT,
}
