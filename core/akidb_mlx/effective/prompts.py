"""The settings in force for one embedder: the user's where given, else the checkpoint's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.effective.recipe import Recipe
from akidb_mlx.effective.tasks import effective_tasks, prompt_of_task
from akidb_mlx.errors import InputError, UnsupportedModelError

__all__ = [
    "Prompts",
    "document_names",
    "effective_normalize",
    "effective_prompts",
    "fingerprint_facts",
    "side_prompts",
]


@dataclass(frozen=True)
class Prompts:
    """What may be put before a text."""

    model_name: str
    named: Mapping[str, str]
    default_name: str | None
    query: str
    document: str

    def choose(self, prompt_name: str | None = None, prompt: str | None = None, side: str | None = None) -> str:
        """`prompt`, else that of the side (query or document), else the one so named, else the default.

        Raises:
            InputError: a side and something else; an unknown name.
            TypeError: a prompt that is no str.
        """
        if not isinstance(prompt, str | None):
            raise TypeError(f"prompt must be a str, not a {type(prompt).__name__}")
        if side is not None:
            for given, what in ((prompt, "prompt"), (prompt_name, "prompt name")):
                if given is not None:
                    raise InputError(f"a side (query or document) decides the prompt; give that or a {what}, not both")
            return self.query if side == "query" else self.document
        if prompt is not None:
            return prompt
        name = self.default_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.named:
            known = ", ".join(map(repr, self.named)) or "none"
            raise InputError(f"{self.model_name} has no prompt called {name!r}; it has {known}")
        return self.named[name]


def side_prompts(
    checkpoint: ModelFacts, query: str | None, document: str | None, names: Sequence[str] = ("document",)
) -> Prompts:
    """The checkpoint's prompts with the user's `query` and `document` among them.

    For documents: the user's, else the first of `names` whose prompt is not empty.
    """
    said = {"query": query, "document": document}
    named = {**checkpoint.prompts, **{name: prompt for name, prompt in said.items() if prompt is not None}}
    if document is None:
        document = next((named[name] for name in names if named.get(name)), "")
    return Prompts(checkpoint.name, named, checkpoint.default_prompt_name, named.get("query", ""), document)


def document_names(exact_reference: bool | None) -> tuple[str, ...]:
    """Names of prompts that serve documents; the reference only ever reaches the first."""
    return ("document",) if exact_reference else ("document", "passage", "corpus")


def effective_prompts(config: EmbedderConfig, recipe: Recipe, task: str | None = None) -> Prompts:
    """An embedder's prompts: the user's, else the checkpoint's of the side, else of the task that the side is put to.

    `task`: where a call says another than the configuration.
    """
    names = document_names(config.exact_reference)
    prompts = side_prompts(recipe.checkpoint, config.query_prompt, config.document_prompt, names)
    tasks = effective_tasks(config, recipe.checkpoint)
    if config.query_prompt is None and not prompts.query:
        of_task = prompt_of_task(recipe.checkpoint.prompts, tasks.of_side("query", task))
        prompts = replace(prompts, query=of_task or "")
    if config.document_prompt is None and not prompts.document:
        of_task = prompt_of_task(recipe.checkpoint.prompts, tasks.of_side("document", task))
        prompts = replace(prompts, document=of_task or "")
    return prompts


def effective_normalize(config: EmbedderConfig, recipe: Recipe) -> bool:
    """Whether rows are scaled to unit length; UnsupportedModelError where nobody says."""
    if config.normalize is not None:
        return config.normalize
    if recipe.checkpoint.normalize is None:
        raise UnsupportedModelError(
            f"{recipe.checkpoint.name} does not say whether its vectors are scaled to unit length; set normalize"
        )
    return recipe.checkpoint.normalize


def fingerprint_facts(config: EmbedderConfig, recipe: Recipe, dimension: int) -> dict[str, Any]:
    """What `fingerprint` hashes."""
    prompts = effective_prompts(config, recipe)
    return {
        "checkpoint": recipe.checkpoint,
        "tokenizer": recipe.checkpoint.rebuilt_tokenizer(config.tokenizer),
        "pooling": recipe.pooling,
        "prompts": {**prompts.named, "document": prompts.document, "query": prompts.query},
        "default_prompt": prompts.default_name,
        "normalize": effective_normalize(config, recipe),
        "dimension": dimension,
        "max_seq_length": recipe.max_seq_length,
        # Only where there are any, so that all others keep their fingerprints.
        **({"side_lengths": dict(recipe.side_lengths)} if recipe.side_lengths else {}),
        **({"exact_reference": True} if config.exact_reference else {}),
        **({"task": _tasks(config, recipe)} if recipe.checkpoint.adapters else {}),
        "dtype": config.dtype,
    }


def _tasks(config: EmbedderConfig, recipe: Recipe) -> list[str | None]:
    """The adapters of texts without a side, of queries and of documents."""
    tasks = effective_tasks(config, recipe.checkpoint)
    return [tasks.of_side(None), tasks.of_side("query"), tasks.of_side("document")]
