"""Write the table of published embedders into docs/models.md, from published.json beside this file.

python tests/reference/published_table.py
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "models.md"
START, END = "<!-- published embedders -->\n", "<!-- end of published embedders -->\n"
HOW = {"weights": "its own weights", "rebuilt": "rebuilt", "form": "same form"}


def read_published() -> dict[str, list[dict[str, Any]]]:
    """Embedders that load, each row with the case that stands for its form, and those that are refused."""
    return json.loads((HERE / "published.json").read_text(encoding="utf-8"))


def as_markdown() -> str:
    published = read_published()
    lines = ["| embedder | loads | why |", "|---|---|---|"]
    for row in published["embedders"]:
        loads = f"set {row['set']}" if "set" in row else "yes"
        why = f"{HOW[row['how']]}: `{row['case']}`" + (f"; {row['note']}" if row.get("note") else "")
        lines.append(f"| {short(row['names'])} | {loads} | {why} |")
    lines += [f"| {short(row['names'])} | no | {row['why']} |" for row in published["refused"]]
    whole = sum(len(row["names"]) for row in published["embedders"] if "set" not in row)
    to_set = sum(len(row["names"]) for row in published["embedders"] if "set" in row)
    refused = sum(len(row["names"]) for row in published["refused"])
    count = f"{whole + to_set + refused} embedders by name: {whole} load as they are, {to_set} with settings, "
    count += f"{refused} are refused."
    return "\n".join([count, "", *lines]) + "\n"


def short(names: Iterable[str]) -> str:
    """The owner once, before the first of its names that follow one another."""
    said, last = [], None
    for name in names:
        owner, _, bare = name.rpartition("/")
        said.append(bare if owner == last else name)
        last = owner
    return ", ".join(said)


def with_table(page: str) -> str:
    """The page with the table made anew."""
    before, _, rest = page.partition(START)
    return before + START + as_markdown() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
