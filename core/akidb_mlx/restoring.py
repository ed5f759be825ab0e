"""How every public object comes out of a pickle: by one function of a module, from what made it.

Tools that key their caches by what an object pickles to (some take the code of a bound method, and all that it can
reach, where they find one) thus get a few hundred bytes, the same before and after use and in every process.
"""

from typing import Any

__all__ = ["restore"]


def restore(cls: Any, *parts: Any) -> Any:
    """An object of a class again, from the parts that its `__reduce__` gave: each class says how in `_restored`."""
    return cls._restored(*parts)
