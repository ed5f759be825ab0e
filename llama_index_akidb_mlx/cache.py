"""An embeddings cache that tells recipes and sides apart; LlamaIndex itself keys it by the text alone."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

__all__ = ["CachePerRecipe", "for_queries"]

_side: ContextVar[str] = ContextVar("akidb_mlx_side", default="document")


@contextmanager
def for_queries() -> Iterator[None]:
    """Within it the cache holds queries."""
    token = _side.set("query")
    try:
        yield
    finally:
        _side.reset(token)


class CachePerRecipe(BaseKVStore):
    """A user's store with a collection for each recipe and side; everything else is the store's own."""

    def __init__(self, store: BaseKVStore, recipe: str) -> None:
        """Keep vectors of `recipe` in `store`."""
        self.store = store
        self.recipe = recipe

    @classmethod
    def over(cls, store: BaseKVStore, recipe: Mapping[str, Any]) -> Self:
        """A cache over a store, or over what another cache is over."""
        if isinstance(store, CachePerRecipe):
            store = store.store
        if not isinstance(store, BaseKVStore):
            raise TypeError(f"embeddings_cache must be a BaseKVStore, not a {type(store).__name__}")
        return cls(store, hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16])

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """As BaseKVStore, like the rest."""
        self.store.put(key, val, self._apart(collection))

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:  # noqa: D102
        await self.store.aput(key, val, self._apart(collection))

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:  # noqa: D102
        return self.store.get(key, self._apart(collection))

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:  # noqa: D102
        return await self.store.aget(key, self._apart(collection))

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:  # noqa: D102
        return self.store.get_all(self._apart(collection))

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:  # noqa: D102
        return await self.store.aget_all(self._apart(collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:  # noqa: D102
        return self.store.delete(key, self._apart(collection))

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:  # noqa: D102
        return await self.store.adelete(key, self._apart(collection))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "store":  # not yet there while it is unpickled
            raise AttributeError(name)
        return getattr(self.store, name)

    def _apart(self, collection: str) -> str:
        return f"{collection}_{self.recipe}_{_side.get()}"
