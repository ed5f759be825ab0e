"""The user's folder for what is costly to make again."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """It need not be there; FileNotFoundError where it would be in a home folder that there is not."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "akidb-mlx"
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home folder; set XDG_CACHE_HOME to a folder") from error
