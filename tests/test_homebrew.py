"""The Homebrew formula: filled in wholly, and Ruby, where there is one. Homebrew itself runs on no machine of ours."""

import hashlib
import shutil
import subprocess
import sys

import pytest

from support.places import ROOT

FOLDER = ROOT / "packaging" / "homebrew"
sys.path.insert(0, str(FOLDER))


@pytest.fixture
def formula(tmp_path):
    if not FOLDER.exists():
        pytest.skip("packaging/ is in the repository alone")
    from formula import formula

    sdist = tmp_path / "akidb_mlx-1.2.3.tar.gz"
    sdist.write_bytes(b"an sdist")
    text = formula(sdist, "https://example.org/akidb_mlx-1.2.3.tar.gz", "https://example.org/akidb-mlx")
    assert hashlib.sha256(b"an sdist").hexdigest() in text
    return text


def test_nothing_is_left_to_fill_in(formula, tmp_path):
    from formula import formula as make

    assert 'version "1.2.3"' in formula and "@" not in formula.replace("python@3.13", "")
    (description,) = [line for line in formula.splitlines() if line.startswith("  desc ")]
    assert len(description.split('"')[1]) <= 80
    with pytest.raises(ValueError, match="no sdist of ours"):
        make(tmp_path / "other-1.tar.gz", "", "")


@pytest.mark.skipif(shutil.which("ruby") is None, reason="needs Ruby")
def test_it_is_ruby(formula):
    for text, code in ((formula, 0), (formula.replace("\nend", ""), 1)):
        assert subprocess.run(["ruby", "-c"], input=text, capture_output=True, text=True).returncode == code
