"""What the demo prints: the answers of both frameworks, side by side where the terminal is wide enough."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Hit", "named", "say", "show", "show_reranked"]

_LEFT, _RIGHT = "LangChain · InMemoryVectorStore", "LlamaIndex · VectorStoreIndex"
# Two columns beside each other, with what stands before and between them; narrower terminals get one.
_COLUMN = 56
_WIDE = 2 + _COLUMN + 2 + _COLUMN
_SHOWN = 6


@dataclass(frozen=True)
class Hit:
    """One answer."""

    score: float
    name: str
    text: str


def say(text: str) -> None:
    """A line on standard output, at once, folded where the terminal is narrower."""
    sys.stdout.write(textwrap.fill(text, _width(), subsequent_indent="  ") + "\n")
    sys.stdout.flush()


def named(count: int, what: str, names: Sequence[str], then: str = "") -> str:
    """`2 documents: a, b`, with only the first names where there are many."""
    more = " …" if len(names) > _SHOWN else ""
    return _escaped(f"{count} {what}{'' if count == 1 else 's'}{then}: {', '.join(names[:_SHOWN])}{more}")


def show(question: str, left: Sequence[Hit], right: Sequence[Hit]) -> None:
    """A question and the best hits of both frameworks; once where both give the same on a narrow terminal."""
    say("")
    say(f"▶ {_escaped(question)}")
    if _width() >= _WIDE:
        say(f"  {_LEFT:<{_COLUMN}}  {_RIGHT}")
        for one, other in zip(left, right, strict=False):
            for a, b in zip(_lines(one, _COLUMN), _lines(other, _COLUMN), strict=True):
                say(f"  {a:<{_COLUMN}}  {b}")
        return
    same = [_lines(hit, _WIDE) for hit in left] == [_lines(hit, _WIDE) for hit in right]
    for name, hits in (("LangChain and LlamaIndex", left),) if same else ((_LEFT, left), (_RIGHT, right)):
        say(f"  {name}")
        _list(hits)


def show_reranked(said: str, hits: Sequence[Hit]) -> None:
    """The hits that a reranker kept."""
    say(f"  {_escaped(said)}")
    _list(hits)


def _list(hits: Sequence[Hit]) -> None:
    for hit in hits:
        for line in _lines(hit, min(_width() - 2, _COLUMN)):
            say(f"  {line}")


def _lines(hit: Hit, width: int) -> tuple[str, str]:
    """A hit in two lines of at most `width` characters."""
    name = _escaped(hit.name)
    text = textwrap.shorten(_escaped(hit.text), width - 7, placeholder=" …")
    return f"{hit.score:6.3f} {name if len(name) <= width - 7 else name[: width - 8] + '…'}", f"       {text}"


def _width() -> int:
    """Columns of the terminal; of a file as many as two columns take."""
    return max(24, shutil.get_terminal_size((_WIDE, 24)).columns)


def _escaped(text: str) -> str:
    """On one line, and without what would command the terminal."""
    return "".join(
        one if one.isprintable() else " " if one.isspace() else one.encode("unicode_escape").decode() for one in text
    )
