"""Write a Homebrew formula for a tap, of a built sdist and the address from which it can be had.

python packaging/homebrew/formula.py dist/akidb_mlx-1.2.3.tar.gz ADDRESS --homepage ADDRESS > akidb-mlx.rb
"""

import argparse
import hashlib
import re
import sys
import tomllib
from pathlib import Path

from akidb_mlx.config.options import DEFAULT_MODEL

HERE = Path(__file__).parent


def formula(sdist: Path, address: str, homepage: str) -> str:
    """The formula; ValueError where something is left to fill in, or the file's name has no version."""
    version = re.fullmatch(r"akidb_mlx-(\d[\w.]*)\.tar\.gz", sdist.name)
    if version is None:
        raise ValueError(f"{sdist.name} is no sdist of ours (akidb_mlx-VERSION.tar.gz)")
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    facts = {
        "ADDRESS": address,
        "DESCRIPTION": project["description"].partition(" for ")[0],  # Homebrew takes at most 80 characters
        "HOMEPAGE": homepage,
        "MODEL": DEFAULT_MODEL,
        "SHA256": hashlib.sha256(sdist.read_bytes()).hexdigest(),
        "VERSION": version[1],
    }
    text = (HERE / "akidb-mlx.rb.in").read_text(encoding="utf-8").split("\n", 2)
    filled = re.sub(r"@([A-Z0-9]+)@", lambda found: facts[found[1]], text[2])
    return f"{text[0]}\n{filled}"


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=Path)
    parser.add_argument("address")
    parser.add_argument("--homepage", required=True)
    args = parser.parse_args()
    sys.stdout.write(formula(args.sdist, args.address, args.homepage))


if __name__ == "__main__":
    main()
