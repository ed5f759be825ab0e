"""What a model's files say; no MLX."""
