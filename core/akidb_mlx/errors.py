"""Errors of akidb-mlx; each says what is wrong and what to do about it.

AkiDBMLXError
├── ConfigError            a setting, a file of settings or a combination of them (also a ValueError)
├── InputError             texts or vectors that cannot be taken (also a ValueError)
├── ModelNotFoundError     no checkpoint under this name
├── CheckpointError        files of a checkpoint are missing, torn or contradict each other
├── UnsupportedModelError  a checkpoint we could read but would not reproduce faithfully
├── BackendError           MLX, its backend or the device
├── QueueFullError         more tokens wait than `max_queued_tokens` allows; try again
└── ClosedError            the model was closed

Wrong Python types stay `TypeError`.
"""

import re
from typing import Any, Self

__all__ = [
    "AkiDBMLXError",
    "BackendError",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "InputError",
    "ModelNotFoundError",
    "QueueFullError",
    "UnsupportedModelError",
]


_SHOWN = 40


class AkiDBMLXError(Exception):
    """Base of every error that akidb-mlx raises on purpose."""

    place: int | None = None
    """Where one text (or pair) is at fault: its place in what the user gave."""
    text: str | None = None
    """That text."""

    def at(self, place: int) -> Self:
        """This error with the place of the text at fault; its message says it too."""
        self.place = place
        return self

    def about(self, text: str) -> Self:
        """This error with the text at fault; its message ends with that text's first characters."""
        if self.text is None:
            self.text = text
            if " (it begins " not in str(self) and not re.search(
                rf"\b(text|input|pair) {self.place} \(['\"]", str(self)
            ):
                shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
                said = f"(it begins {shown})"
                if not str(self).endswith(said):  # a server's message has it
                    self.args = (f"{self} {said}", *self.args[1:])
        return self

    def renumbered(self, place: int, noun: str = "") -> Self:
        """This error where the text has another place for the user, or is called otherwise (`node 3, id …`)."""
        told = re.sub(
            rf"\b(text|input) {self.place}\b", lambda match: noun or f"{match[1]} {place}", str(self), count=1
        )
        self.args = (told, *self.args[1:])
        return self.at(place)


class ConfigError(AkiDBMLXError, ValueError):
    """A setting is unknown, out of range or contradicts another."""


class InputError(AkiDBMLXError, ValueError):
    """A text or a vector cannot be taken; the message names its index."""


class ModelNotFoundError(AkiDBMLXError):
    """No checkpoint is found under the given name."""


class CheckpointError(AkiDBMLXError):
    """A checkpoint's files are missing, torn or contradict each other."""


class UnsupportedModelError(AkiDBMLXError):
    """A checkpoint asks for something that would not be reproduced faithfully."""


class BackendError(AkiDBMLXError):
    """MLX has no usable backend, or the device failed.

    Where it was short of memory for the moment, `retry_after_s` says when to try again (seconds); else it is None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """Keep the time after which a retry makes sense, in seconds; None where there is no use in it."""
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["BackendError"], tuple[str, float | None], dict[str, Any]]:
        """Pickle with both arguments, so that the error crosses a process boundary whole."""
        return type(self), (str(self), self.retry_after_s), self.__dict__


class QueueFullError(AkiDBMLXError):
    """The engine's queue is full; `retry_after_s` says when to try again (seconds)."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        """Keep the time after which a retry makes sense, in seconds."""
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["QueueFullError"], tuple[str, float]]:
        """Pickle with both arguments, so that the error crosses a process boundary whole."""
        return type(self), (str(self), self.retry_after_s)


class ClosedError(AkiDBMLXError):
    """The model was closed; load it again."""
