"""How every public object comes out of a pickle: by one function of a module, from what made it.

Tools that key their caches by what an object pickles to (some take the code of a bound method, and all that it can
reach, where they find one) thus get a few hundred bytes, the same before and after use and in every process.
"""

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

__all__ = ["MadeOfConfig", "restore"]

C = TypeVar("C")


def restore(cls: Any, *parts: Any) -> Any:
    """An object of a class again, from the parts that its `__reduce__` gave: each class says how in `_restored`."""
    return cls._restored(*parts)


class MadeOfConfig(Generic[C]):
    """What `load` makes of a configuration alone: `with` closes it, and copies and pickles are loaded again."""

    if TYPE_CHECKING:
        config: C

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()  # type: ignore[attr-defined]  # as `load`, of each class its own

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration; the model is found and loaded again from it."""
        return restore, (type(self), self.config)

    @classmethod
    def _restored(cls, config: C) -> Self:
        face: Self = cls.load(config)  # type: ignore[attr-defined]
        return face

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._restored(self.config)
