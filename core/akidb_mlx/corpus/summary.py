"""What a run tells of itself at its end."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """What is in an output, and what this run did for it."""

    output: Path
    rows: int
    rejected: int
    given: int
    """Rows whose vector was in the input."""
    resumed: int = 0
    """Rows and rejects of an earlier run that was interrupted; all of them where nothing was left to do."""
    tokens: int = 0
    """Tokens that this run embedded."""
    texts: int = 0
    """Where texts were split: how many there are."""
    truncated: int = 0
    """Texts in the output that were cut at max_seq_length."""
    empty: int = 0
    """Texts in the output without a word, which have a vector all the same."""
    bytes: int = 0
    """What the output takes on the disk, with its side files."""
    seconds: float = 0.0
    finished_before: bool = False

    def __str__(self) -> str:
        """One line for people."""
        told = [f"{self.rows:,} rows{f' of {self.texts:,} texts' if self.texts else ''}"]
        if self.given:
            told.append(f"{self.given:,} of them with the vector they had")
        if self.rejected:
            told.append(f"{self.rejected:,} rejected ({self.output.name}.rejects.jsonl says why)")
        if self.empty:
            told.append(f"{self.empty:,} with an empty text")
        if self.truncated and self.finished_before:
            told.append(f"{self.truncated:,} cut at max_seq_length")
        if self.finished_before:
            return f"{self.output} is finished: {', '.join(told)}; nothing to do"
        if self.resumed:
            told.append(f"{self.resumed:,} from an earlier run")
        if self.truncated:
            told.append(f"{self.truncated:,} cut at max_seq_length")
        new = self.rows + self.rejected - self.resumed
        told.append(f"{self.bytes / 1e6:,.1f} MB ({self.bytes / max(1, self.rows):,.0f} bytes per row)")
        told.append(f"{new / self.seconds:,.0f} rows/s, {self.tokens / self.seconds:,.0f} tokens/s")
        return f"{self.output}: {', '.join(told)}, {self.seconds:,.1f} s"
