"""Requests in, rows out: the threads that own MLX."""
