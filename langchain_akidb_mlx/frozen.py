"""What LangChain's classes share: frozen fields, and the model's name under both frameworks' words."""

from typing import TYPE_CHECKING

from pydantic import ConfigDict

from akidb_mlx.adapters.base import AdapterModel

__all__ = ["FrozenModel"]


class FrozenModel(AdapterModel):
    """An adapter whose fields are settled at construction, all of them."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    if not TYPE_CHECKING:

        @property
        def model_name(self) -> str:
            """`model` by LlamaIndex's and sentence-transformers' name."""
            return self.model
