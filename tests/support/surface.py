"""The public surface as text, a line per name: what each documented module gives, with signatures and fields.

    cd tests && python -m support.surface

writes public_surface.txt there. Annotations stand as they are written in the source, so that every Python gives the
same lines; members that a framework's class brings are the framework's, and are left out.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

FILE = Path(__file__).parents[1] / "public_surface.txt"
OURS = ("akidb_mlx", "langchain_akidb_mlx", "llama_index_akidb_mlx")
# Modules that README, docs and docstrings name, and what must be installed to import them.
MODULES = {
    "akidb_mlx": (),
    "akidb_mlx.convert": (),
    "akidb_mlx.corpus": ("pyarrow",),
    "akidb_mlx.errors": (),
    "akidb_mlx.mteb": (),
    "akidb_mlx.ray": ("ray",),
    "akidb_mlx.recipe": (),
    "akidb_mlx.small_vectors": (),
    "akidb_mlx.splitting": (),
    "akidb_mlx.testing": (),
    "langchain_akidb_mlx": ("langchain_core",),
    "langchain_akidb_mlx.sparse": ("langchain_qdrant",),
    "llama_index_akidb_mlx": ("llama_index.core",),
}
SPECIAL = (
    *("__init__", "__call__", "__len__", "__getitem__", "__iter__"),
    *("__enter__", "__exit__", "__aenter__", "__aexit__"),
)


def surface(module: str) -> list[str]:
    """A module's lines."""
    loaded = importlib.import_module(module)
    lines = []
    for name in loaded.__all__:
        value, path = getattr(loaded, name), f"{module}.{name}"
        if inspect.ismodule(value):
            lines.append(f"{path}: module")
        elif inspect.isclass(value):
            lines += of_class(path, value)
        elif inspect.isfunction(value):
            lines.append(f"{path}{signature(value)}")
        else:
            lines.append(f"{path} = {shown(value)}")
    return lines


def of_class(path: str, kind: type) -> list[str]:
    """A class with the others' classes that it inherits, and its members, sorted by name."""
    ours = [base for base in kind.__mro__ if is_ours(base)]
    bases = dict.fromkeys(base.__name__ for one in ours for base in one.__bases__ if not is_ours(base))
    members = {}
    for base in reversed(ours):
        members |= dict(fields(kind, base))
        for name, member in vars(base).items():
            if (not name.startswith("_") or name in SPECIAL) and (said := of_member(member)):
                members[name] = said
    if "load" in members:  # the way to make one; the constructor takes what only `load` has
        members.pop("__init__", None)
    inherited = ", ".join(name for name in bases if name not in ("object", "Generic"))
    return [f"{path}({inherited})", *(f"{path}.{name}{members[name]}" for name in sorted(members))]


def is_ours(thing: Any) -> bool:
    """Whether a class or a function stands in one of our packages."""
    return thing.__module__.split(".")[0] in OURS


def fields(kind: type, base: type) -> Iterator[tuple[str, str]]:
    """The annotated names of a class's body: fields with their defaults."""
    try:
        body = parsed(base).body
    except OSError:  # made by another module
        return
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            if "ClassVar" in ast.unparse(node.annotation):
                continue
            name, default = node.target.id, "" if node.value is None else f" = {ast.unparse(node.value)}"
            if issubclass(kind, BaseModel) and name in kind.model_fields:
                field = kind.model_fields[name]
                default = "" if field.is_required() else f" = {field.get_default()!r}"
            yield name, f": {ast.unparse(node.annotation)}{default}"


def of_member(member: Any) -> str:
    """A method or a property."""
    if isinstance(member, property) or hasattr(member, "func"):  # `func`: a cached property
        function = getattr(member, "fget", None) or member.func
        return f": property{signature(function).removeprefix('(self)')}"
    if isinstance(member, classmethod | staticmethod) and inspect.isfunction(member.__func__):
        return f"{signature(member.__func__)}, {type(member).__name__}"
    return signature(member) if inspect.isfunction(member) and is_ours(inspect.unwrap(member)) else ""


def signature(function: Any) -> str:
    """As it is written."""
    try:
        node = parsed(inspect.unwrap(function))
    except OSError:  # a dataclass's, which stands in no file
        return ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}{', async' if isinstance(node, ast.AsyncFunctionDef) else ''}"


def parsed(thing: Any) -> Any:
    """The syntax of a class or a function."""
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def shown(value: Any) -> str:
    """A constant or a type."""
    if isinstance(value, dict):
        return "{" + ", ".join(map(repr, value)) + "}"
    return repr(value)


def read_surface() -> dict[str, list[str]]:
    """The committed lines of each module."""
    parts = FILE.read_text(encoding="utf-8").split("## ")[1:]
    return {lines[0]: lines[1:] for lines in (part.strip().splitlines() for part in parts)}


if __name__ == "__main__":
    FILE.write_text("".join("\n".join([f"## {name}", *surface(name), "", ""]) for name in MODULES), encoding="utf-8")
    print(FILE)
