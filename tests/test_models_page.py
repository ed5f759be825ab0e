"""docs/models.md: the table of published embedders is what the data say, and each row names a case that is tested."""

import runpy

from support.checkpoints import CASES, REFERENCE, TASK_CASES
from support.places import DOCS

# By its path: its folder holds `cohere` and others, which would be packages.
TABLE = runpy.run_path(str(REFERENCE / "published_table.py"))
read_published, with_table = TABLE["read_published"], TABLE["with_table"]


def test_the_table_is_of_the_data():
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    assert with_table(page) == page, "run python tests/reference/published_table.py"


def test_every_row_that_loads_names_a_tested_case():
    tested = {*CASES, *(f"tasks/{name}" for name in TASK_CASES)}
    assert {row["case"] for row in read_published()["embedders"]} <= tested


def test_no_name_stands_twice():
    published = read_published()
    names = [name for rows in published.values() for row in rows for name in row["names"]]
    assert len(names) == len(set(names)) and all(name.count("/") == 1 for name in names)
