"""JSON with halves of letters in it, which clients send that cut a text within an emoji."""

import json
import re

from akidb_mlx.pipeline.inputs import valid_unicode

__all__ = ["mended_json"]

# An odd number of backslashes before it: an even one is of backslashes themselves.
_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")


def mended_json(body: bytes) -> bytes | None:
    """The same JSON with U+FFFD for each such half, as `Embedder` reads it; None where that is not what is wrong."""
    if not _SURROGATE.search(body):
        return None
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except ValueError:
        return None
    mended = valid_unicode(text).encode()
    return None if _SURROGATE.search(mended) else mended
