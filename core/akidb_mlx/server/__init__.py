"""HTTP server over `Embedder` (extra `[server]`): OpenAI's embeddings, AkiDB's contract, a page to try them.

The path of a request: gate (who may, how long, logs and figures) → reading (bytes → checked schema) →
openai or akidb (texts → rows) → writing (rows → bytes).
"""

from akidb_mlx.server.app import create_app
from akidb_mlx.server.models import Models
from akidb_mlx.server.settings import ServerSettings

__all__ = ["Models", "ServerSettings", "create_app"]
