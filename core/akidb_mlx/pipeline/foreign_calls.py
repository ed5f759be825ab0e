"""Calls as other libraries want them: a TypeError says how it is done, or what a keyword is called, here."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

from akidb_mlx.config.neighbours import advice
from akidb_mlx.config.sources import suggestion

__all__ = ["answer_foreign_keywords", "not_constructed"]

_CALLS: Final = ("encode", "aencode", "predict", "apredict", "rank", "arank")


def not_constructed(cls: type, args: tuple[Any, ...]) -> TypeError:
    """For a class that was called with a model's name."""
    return TypeError(f"models are loaded by {cls.__name__}.load({', '.join(map(repr, args[:1]))}…)")


def answer_foreign_keywords(cls: type) -> None:
    """Wrap the methods of a class that compute; their signatures stay as they are."""
    for name, method in list(vars(cls).items()):
        if name.startswith(_CALLS) and inspect.isfunction(method) and not _generates(method):
            setattr(cls, name, _answering(method))


def _generates(method: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method)


def _answering(method: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(method).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return method
    names = frozenset(parameters)

    def check(given: Iterable[str]) -> None:
        for name in given:
            if name not in names:
                instead = advice(name, names)
                told = f": {instead} (docs/coming-from.md)" if instead else suggestion(name, names)
                raise TypeError(f"{method.__qualname__}() has no argument {name}{told}")

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            check(kwargs)
            return await method(*args, **kwargs)

        return awaited

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        check(kwargs)
        return method(*args, **kwargs)

    return called
