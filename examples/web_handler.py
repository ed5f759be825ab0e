"""A web handler that searches: async all the way, so that a hundred questions at once share a few forward passes.

pip install "akidb-mlx[langchain]" starlette uvicorn
uvicorn web_handler:app --port 8000      then      curl "localhost:8000/search?q=bread"
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langchain_core.vectorstores import InMemoryVectorStore
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from akidb_mlx.errors import QueueFullError
from langchain_akidb_mlx import AkiDBMLXEmbeddings

PASSAGES = [
    "Wild yeast makes sourdough rise.",
    "Twice a day the sea rises and falls, after the moon.",
    "Texts of similar meaning have vectors that point the same way.",
]

store = InMemoryVectorStore(AkiDBMLXEmbeddings())  # loads nothing yet


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Load the model and embed the passages before the first request."""
    await store.aadd_texts(PASSAGES)
    yield


async def search(request: Request) -> Response:
    """The passage nearest to ?q=…; while it is embedded the event loop serves others."""
    question = request.query_params.get("q", "")
    try:
        ((document, score),) = await store.asimilarity_search_with_score(question, k=1)
    except QueueFullError as busy:
        return JSONResponse({"error": str(busy)}, 429, headers={"Retry-After": str(round(busy.retry_after_s) or 1)})
    return JSONResponse({"passage": document.page_content, "score": round(score, 3)})


app = Starlette(routes=[Route("/search", search)], lifespan=lifespan)
