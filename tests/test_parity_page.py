"""docs/parity.md: a row for each committed checkpoint, with what it checks, and no difference beyond the bound."""

import re
import runpy

import pytest

from support.checkpoints import REFERENCE
from support.places import DOCS

# By its path: its folder holds `cohere` and others, which would be packages.
TABLE = runpy.run_path(str(REFERENCE / "parity_table.py"))
KINDS, names_and_checks, part = TABLE["KINDS"], TABLE["names_and_checks"], TABLE["part"]
PAGE = (DOCS / "parity.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\S+) \| `(\S+)` \| (.*?) \| ([\d.e+-]+) \|", re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_every_checkpoint_has_its_row(kind):
    (table,) = part(kind).findall(PAGE)
    rows = [(family, name, checks.rstrip()) for family, name, checks, _ in ROW.findall(table)]
    assert rows == names_and_checks(kind), "run python tests/reference/parity_table.py"
    assert all(float(figure) <= 1e-5 for *_, figure in ROW.findall(table))


@pytest.mark.parametrize("kind", KINDS)
def test_the_results_count_them(kind):
    (results,) = part("results").findall(PAGE)
    rows = names_and_checks(kind)
    assert f"| {kind} | {len(rows)} | {len({family for family, *_ in rows})} |" in results
