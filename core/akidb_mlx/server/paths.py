"""Which paths there are, in words for those who ask at another."""

__all__ = ["is_ollamas", "where_instead"]

# What a path may end with → where that is.
_PLACES = {
    "embeddings": ("/v1/embeddings",),
    "embedding": ("/v1/embeddings",),
    "embed": ("/v1/embeddings", "/v2/embed", "/api/embed", "/api/v1/embed"),
    "rerank": ("/v1/rerank", "/v2/rerank", "/rerank"),
    "reranking": ("/v1/rerank",),
    "score": ("/score",),
    "rows": ("/api/v1/rows",),
    "tokens": ("/api/v1/tokens",),
    "describe": ("/api/v1/describe",),
    "embed_sparse": ("/embed_sparse",),
    "pooling": ("/pooling",),
    "hybrid": ("/api/v1/hybrid",),
    "models": ("/v1/models",),
    "tags": ("/api/tags",),
    "version": ("/api/version",),
    "show": ("/api/show",),
    "health": ("/health",),
    "healthz": ("/health",),
    "metrics": ("/metrics",),
    "openapi.json": ("/openapi.json",),
}
_TEXT = frozenset({"chat", "completions", "generate", "messages", "responses"})
_AKIDBS = "/api/v1/"


def is_ollamas(path: str) -> bool:
    """Whether Ollama's clients ask there, which want an error as a text."""
    return path.startswith("/api/") and not path.startswith(_AKIDBS)


def where_instead(path: str) -> str:
    """What to ask in place of a path that is none, as the end of a sentence."""
    parts = [part for part in path.split("/") if part]
    last = parts[-1] if parts else ""
    if last in _TEXT:
        return "this server gives vectors and scores, it writes no text"
    places = _PLACES.get(last)
    if last == "embeddings" and is_ollamas(path):
        places = ("/api/embeddings",)
    if places is None:
        return "texts go to /v1/embeddings, pairs to /v1/rerank; /openapi.json lists all paths"
    exact = [place for place in places if path.rstrip("/").endswith(place)]
    return f"it is {' or '.join(exact[:1] or places)} here"
