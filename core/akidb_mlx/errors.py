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


class AkiDBMLXError(Exception):
    """Base of every error that akidb-mlx raises on purpose."""


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

    def __reduce__(self) -> tuple[type["BackendError"], tuple[str, float | None]]:
        """Pickle with both arguments, so that the error crosses a process boundary whole."""
        return type(self), (str(self), self.retry_after_s)


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
