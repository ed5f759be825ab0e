"""Where models compute, and what follows from it."""
