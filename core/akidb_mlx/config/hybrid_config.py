"""HybridConfig: a model that gives dense, sparse and multi-vector rows in one pass, and how to run it."""

from akidb_mlx.config.embedder_config import EmbedderConfig

__all__ = ["HybridConfig"]


class HybridConfig(EmbedderConfig):
    """What an EmbedderConfig says, from the same sources, of a model that is meant in all its three forms."""

    def plain(self) -> EmbedderConfig:
        """The same for `HybridEmbedder.load`."""
        return EmbedderConfig.exact(**self.model_dump())
