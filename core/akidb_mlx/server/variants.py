"""A served model with a request's own settings: another object over the loaded model, kept for the next one."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.reranker import Reranker
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["RowFace", "Variant", "Variants", "with_settings"]

RowFace: TypeAlias = Embedder | Reranker | SparseEmbedder | MultiVectorEmbedder
# Settings of one model that are kept; an older one is made anew when it comes again.
_KEPT = 64
# What the loaded model is made with, where the files' own word for it counts the same as the setting's.
_FROM_FILES = frozenset({"pooling", "max_seq_length", "query_length", "document_length", "revision"})


@dataclass(frozen=True)
class Variant:
    """A model with settings, and a hash of what decided its rows when it was made."""

    face: RowFace
    fingerprint: str


@dataclass(eq=False)
class Variants:
    """Those of one loaded model. All methods belong to one event loop."""

    _made: dict[str, "asyncio.Task[Variant]"] = field(default_factory=dict)

    async def get(self, face: RowFace, name: str, settings: Mapping[str, Any]) -> Variant:
        """The model with these settings; without any `face` itself. Raises as `with_settings`."""
        key = f"{type(face).__name__} {json.dumps(settings, sort_keys=True)}"
        task = self._made.get(key)
        if task is None:
            task = self._made[key] = asyncio.create_task(asyncio.to_thread(_make, face, name, settings))
            while len(self._made) > _KEPT:
                await self._forget(next(iter(self._made)))
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._made.get(key) is task:
                del self._made[key]
            raise

    async def close(self) -> None:
        """Give all of them back."""
        for key in list(self._made):
            await self._forget(key)

    async def _forget(self, key: str) -> None:
        """A call that has begun ends well: the model's own object holds it."""
        task = self._made.pop(key)
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None and not key.endswith(" {}"):
            await asyncio.to_thread(task.result().face.close)


def with_settings(face: RowFace, name: str, settings: Mapping[str, Any]) -> RowFace:
    """Another object over the same loaded model; ConfigError for what that cannot be, or is not a setting."""
    if bad := sorted(settings.keys() - _vector_fields(face)):
        raise ConfigError(f"settings: {', '.join(bad)} cannot be asked of a server; leave it out")
    wanted = face.config.with_changes(**settings)
    own, facts = type(face)._kind.on_the_host, None
    for field_name in settings.keys() - own:
        value, served = getattr(wanted, field_name), getattr(face.config, field_name)
        if value != served and field_name in _FROM_FILES:
            facts = facts or face.info()
            served = facts.get(field_name)
        if value != served:
            raise ConfigError(
                f"{name} is served with {field_name}={served!r}, not {value!r}, which is settled when a model is "
                f"loaded: start the server with --{field_name.replace('_', '-')}, or leave it out here"
            )
    own_settings = {key: value for key, value in settings.items() if key in own}
    return face.with_settings(**own_settings, keep_alive=0.0)  # as long as the model's own object says, no longer


def _vector_fields(face: RowFace) -> frozenset[str]:
    from akidb_mlx.config.model_config import fields_that_change

    return fields_that_change(type(face.config), "vectors") - {"model"}


def _make(face: RowFace, name: str, settings: Mapping[str, Any]) -> Variant:
    one = with_settings(face, name, settings) if settings else face
    return Variant(one, one.fingerprint)
