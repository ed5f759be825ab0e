"""Names, signatures and fields of every documented module: what is committed is what there is, and nothing else."""

import re

import pytest

from support.packages import needs
from support.places import DOCS, ROOT
from support.surface import MODULES, read_surface, surface

PAGES = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.py")]


@pytest.mark.parametrize("module", MODULES)
def test_the_public_surface_is_the_committed_one(module):
    needs(*MODULES[module])
    committed, found = set(read_surface()[module]), set(surface(module))
    assert (sorted(found - committed), sorted(committed - found)) == ([], []), "cd tests && python -m support.surface"


def test_every_module_that_the_docs_import_from_is_there():
    imported = {
        name for page in PAGES for name in re.findall(r"^from (\w*akidb_mlx[\w.]*) import", page.read_text(), re.M)
    }
    assert imported <= set(MODULES) and set(read_surface()) == set(MODULES)
