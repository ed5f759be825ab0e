"""What keeps the house true: generated pages are fresh, hooks and pins agree, the sdist can run its tests."""

import re
import sys
import tomllib

import pytest

from support.places import DOCS, ROOT

sys.path.insert(0, str(DOCS))
from reference_pages import PAGES

from akidb_mlx.cli import COMMANDS

NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_pages_are_fresh(name):
    assert PAGES[name]() == (DOCS / name).read_text(encoding="utf-8"), "run python docs/reference_pages.py"


def test_every_command_and_every_page_is_in_the_docs():
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    assert all(f"\n## {name}\n" in page for name in COMMANDS)
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r"\S+\.md", NAVIGATION)) - {"changelog.md", "contributing.md"}


def test_the_hooks_take_the_pinned_formatter():
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert f"rev: v{pinned}\n" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_actions_are_pinned_by_commit():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (\S+)", file.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), f"{file.name}: {action}"


def test_the_sdist_holds_what_its_tests_read():
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert {"/tests", "/examples", "/docs", "/Makefile", "/constraints.txt"} <= set(included["include"])


def test_the_oldest_mlx_that_is_allowed_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = dict(re.findall(r"^(mlx|mlx-lm)>=([\d.]+)", "\n".join(project["dependencies"]), re.MULTILINE))
    tried = f"packages: mlx=={oldest['mlx']} mlx-cpu=={oldest['mlx']} mlx-lm=={oldest['mlx-lm']}\n"
    assert tried in (ROOT / ".github" / "workflows" / "next.yml").read_text()
    assert all(number in (ROOT / "README.md").read_text() for number in oldest.values())
