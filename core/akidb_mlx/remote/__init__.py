"""The same classes over a model that a server has loaded (`akidb-mlx serve`): same vectors, same errors."""
