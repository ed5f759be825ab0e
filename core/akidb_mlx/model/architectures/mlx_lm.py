"""mlx-lm's models without mlx-lm's package, whose import takes seconds (transformers) and lowers RLIMIT_NOFILE."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import mlx.core as mx

from akidb_mlx.errors import BackendError, UnsupportedModelError
from akidb_mlx.model.layers.attention import attend, attention_layer_in_blocks, takes_blocks
from akidb_mlx.model.layers.masks import ByBlock, Mask

__all__ = ["has_model", "import_model"]

# Our own name for the folder `mlx_lm/models`; a user's `import mlx_lm` is another copy, untouched by ours.
_PACKAGE = "akidb_mlx_mlx_lm_models"


def import_model(name: str) -> Any:
    """The module of one of mlx-lm's models; it has `Model` and `ModelArgs`."""
    if _PACKAGE not in sys.modules:
        package = types.ModuleType(_PACKAGE, "mlx-lm's models, loaded by akidb-mlx.")
        package.__path__ = [str(_folder())]
        sys.modules[_PACKAGE] = package
        # The models take it from there; theirs makes the scores of all tokens at once on the CPU.
        base: Any = importlib.import_module(f"{_PACKAGE}.base")
        base.scaled_dot_product_attention = _attend
    try:
        module: Any = importlib.import_module(f"{_PACKAGE}.{name}")
    except ImportError as error:
        raise UnsupportedModelError(
            f"mlx-lm's model {name!r} cannot be imported here ({error}); pip install -U mlx-lm"
        ) from None
    if name == "gemma2" and module.Attention.__call__.__module__ != __name__:
        module.Attention.__call__ = _capped(module.Attention.__call__)
    return module


def _capped(theirs: Any) -> Any:
    """Gemma 2's attention caps its scores and has a method of its own, which makes them all at once."""

    def attention(self: Any, x: Any, mask: Mask, cache: None = None) -> Any:
        if not takes_blocks(x):
            whole = mask.block(0, x.shape[1])[1] if isinstance(mask, ByBlock) else mask
            if isinstance(whole, mx.array) and whole.ndim == 4 and self.repeats > 1:
                whole = mx.expand_dims(whole, 2)  # heads are in groups there
            return theirs(self, x, whole, cache)

        def project(x: Any, first: int) -> Any:
            products = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
            shape = (*x.shape[:2], -1, self.head_dim)
            queries, keys, values = (one.reshape(shape).swapaxes(1, 2) for one in products)
            return self.rope(queries, first), self.rope(keys, first), values

        def finish(x: Any, attended: Any) -> Any:
            return self.o_proj(attended.swapaxes(1, 2).reshape(*x.shape[:2], -1))

        return attention_layer_in_blocks(project, finish, x, mask, self.scale, self.attn_logit_softcapping)

    return attention


def _attend(queries: Any, keys: Any, values: Any, cache: None, scale: float, mask: Mask, sinks: None = None) -> Any:
    return attend(queries, keys, values, mask, scale)


def has_model(name: str) -> bool:
    """Whether mlx-lm has a model of this name; imports nothing."""
    return name.isidentifier() and (_folder() / f"{name}.py").exists()


def _folder() -> Path:
    spec = importlib.util.find_spec("mlx_lm")  # finds it without running it
    if spec is None or not spec.submodule_search_locations:
        raise BackendError("mlx-lm is not installed: pip install mlx-lm")
    return Path(spec.submodule_search_locations[0]) / "models"
