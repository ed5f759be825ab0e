"""Which of a model's adapters computes a text: by the task that was asked for, and by what the text is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from akidb_mlx.checkpoint.facts import Checkpoint
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.errors import ConfigError, InputError

__all__ = ["Tasks", "effective_tasks", "prompt_of_task", "side_of_task"]

# What the names of halves of a task end in.
_HALVES: Mapping[str, Side] = {"query": "query", "passage": "document", "document": "document"}


@dataclass(frozen=True)
class Tasks:
    """The tasks of one model, and the one that the user set."""

    model_name: str
    names: tuple[str, ...] = ()
    chosen: str | None = None
    required: bool = False
    """Whether there is no vector without one."""

    def choose(self, task: str | None = None, side: Side | None = None) -> str | None:
        """The adapter for a text of this side: of `task`, else of the chosen one; None for the model without any.

        Without either a side has the only half that is meant for it.

        Raises:
            InputError: an unknown task, one of the other side, or half a task where no side says which.
        """
        task = self.chosen if task is None else task
        if not isinstance(task, str | None):
            raise TypeError(f"task must be a str, not a {type(task).__name__}")
        if task is None:
            halves = [name for name in self.names if side is not None and side_of_task(name) == side]
            if len(halves) == 1:
                return halves[0]
            if self.required:
                raise InputError(f"{self.model_name} has an adapter for each task and no use without: {self._advice()}")
            return None
        if not self.names:
            raise InputError(f"{self.model_name} has no adapters for tasks; leave task={task!r} out")
        plain, own = {_plain(name): name for name in self.names}, side_of_task(task)
        if None not in (side, own) and side != own:
            raise InputError(f"task {task!r} is not for what is a {side}; {self._advice()}")
        stem, _, half = _plain(task).rpartition(" ")
        found = plain.get(_plain(task)) or (plain.get(stem) if half in _HALVES else None)
        if found is not None:
            return found
        halves = [name for name in self.names if _plain(name).rpartition(" ")[0] == _plain(task) and side_of_task(name)]
        if not halves:
            raise InputError(f"{self.model_name} has no task {task!r}; {self._advice()}")
        if side is None:
            raise InputError(
                f"task {task!r} has an adapter for queries and one for documents, and nothing says which these texts "
                f"are: encode them as either, or give one of {', '.join(map(repr, halves))}"
            )
        return next(name for name in halves if side_of_task(name) == side)

    def of_side(self, side: Side | None, task: str | None = None) -> str | None:
        """`choose`, or None where there is no such adapter."""
        try:
            return self.choose(task, side)
        except InputError:
            return None

    def check(self) -> None:
        """ConfigError where the task that the user set is none of the model's, or is missing though it must be set."""
        own = None if self.chosen is None else side_of_task(self.chosen)
        try:
            self.choose(side=own or "query")
        except InputError as error:
            raise ConfigError(str(error)) from None

    def _advice(self) -> str:
        return f"its tasks are {', '.join(map(repr, self.names))} (option task)"


def side_of_task(task: str) -> Side | None:
    """What texts a half of a task is for ("retrieval.query"); None of a whole one."""
    stem, _, half = _plain(task).rpartition(" ")
    return _HALVES.get(half) if stem else None


def effective_tasks(config: EmbedderConfig, checkpoint: Checkpoint) -> Tasks:
    """An embedder's."""
    names = tuple(adapter.task for adapter in checkpoint.adapters)
    return Tasks(checkpoint.name, names, config.task, checkpoint.task_required)


def prompt_of_task(prompts: Mapping[str, str], task: str | None) -> str | None:
    """The prompt that is named like a task; None where none is."""
    found = {_plain(name): prompt for name, prompt in prompts.items()}
    return None if task is None else found.get(_plain(task))


def _plain(name: str) -> str:
    """A name without the marks in which files differ: "retrieval.query" and "retrieval_query"."""
    return re.sub(r"[-_.\s]+", " ", name).strip().casefold()
