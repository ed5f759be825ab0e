"""Real text for benchmarks: sentences of the installed packages' descriptions; needs the standard library only."""

import importlib.metadata
import random
import re


def sentences() -> list[str]:
    """Sentences of the long descriptions, in a fixed order, each once."""
    found: dict[str, None] = {}
    for distribution in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"]).lower()):
        text = str(distribution.metadata.get_payload() or distribution.metadata.get("Description") or "")
        text = re.sub(r"```.*?(```|\Z)|<[^>]+>", " ", text, flags=re.DOTALL)
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
            words = sentence.split()
            if 4 <= len(words) <= 60:
                found[" ".join(words)] = None
    return list(found)


def documents(count: int, most_sentences: int = 24, seed: int = 0) -> list[str]:
    """Texts of 1 to `most_sentences` joined sentences."""
    rng = random.Random(seed)
    pool = sentences()
    return [" ".join(rng.choices(pool, k=rng.randint(1, most_sentences))) for _ in range(count)]


def queries(count: int, seed: int = 1) -> list[str]:
    """Short texts: the first eight words of a sentence."""
    rng = random.Random(seed)
    pool = sentences()
    return [" ".join(rng.choice(pool).split()[:8]) for _ in range(count)]
