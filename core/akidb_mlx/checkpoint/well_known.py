"""Hub ids that people say without their owner, so that a message can name the whole id."""

import difflib
from collections.abc import Iterable
from typing import Final

from akidb_mlx.checkpoint.families import FAMILIES
from akidb_mlx.config.options import MODEL_ALIASES

__all__ = ["did_you_mean"]

_OTHERS: Final = {
    "sentence-transformers": "all-MiniLM-L12-v2 all-distilroberta-v1 multi-qa-MiniLM-L6-cos-v1 "
    "multi-qa-mpnet-base-dot-v1 paraphrase-MiniLM-L6-v2 paraphrase-multilingual-MiniLM-L12-v2 "
    "paraphrase-multilingual-mpnet-base-v2 distiluse-base-multilingual-cased-v2 LaBSE static-retrieval-mrl-en-v1",
    "thenlper": "gte-small gte-base gte-large",
    "minishlab": "potion-base-8M potion-base-32M potion-retrieval-32M",
    "ibm-granite": "granite-embedding-english-r2 granite-embedding-small-english-r2",
}
_IDS: Final = (
    *(name for family in FAMILIES for name in family.ids),
    *(f"{owner}/{name}" for owner, names in _OTHERS.items() for name in names.split()),
    *MODEL_ALIASES.values(),
)


def did_you_mean(said: str, others: Iterable[str] = ()) -> str:
    """`; did you mean OWNER/NAME?` for a well-known model's name with no owner or another one, else for the nearest.

    `others` are further names that could be meant: aliases, packages.
    """
    folded = said.casefold()
    bare = folded.rpartition("/")[2]
    exact = [name for name in _IDS if _bare(name) == bare and name.casefold() != folded]
    if exact:
        return f"; did you mean {exact[0]}?"
    known = {name.casefold(): name for name in (*others, *_IDS) if name.casefold() != folded}
    if "/" not in said:
        known = {_bare(name): name for name in _IDS} | {name.casefold(): name for name in others}
    close = difflib.get_close_matches(folded, known, n=1, cutoff=0.75)
    return f"; did you mean {known[close[0]]}?" if close else ""


def _bare(name: str) -> str:
    return name.rpartition("/")[2].casefold()
