"""The way of a call, on the caller's thread."""
